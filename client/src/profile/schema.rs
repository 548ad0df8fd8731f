//! Tables of a profile beside those of OpenMLS. Content is sealed ([`super::Vault`]); in the clear are row numbers,
//! counters, states and times, which the file's 0600 protects.

/// Format that this version writes; kept in SQLite's `user_version`.
pub(super) const FORMAT: u32 = 11;

/// Everything of format 7 but [`VERIFIED`] and what a screen shows (`schema_timeline`).
pub(super) const TABLES: &str = "
CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL                       -- sealed
) WITHOUT ROWID;

-- own inbox keys; the newest is behind the own address
CREATE TABLE own_key (
    own_key INTEGER PRIMARY KEY AUTOINCREMENT,
    seed BLOB NOT NULL,                       -- sealed
    public BLOB NOT NULL UNIQUE,              -- sealed public half
    read_until INTEGER                        -- until when the inbox of one that was given up is read; NULL: the current one
);

CREATE TABLE contact (
    contact INTEGER PRIMARY KEY,
    inbox BLOB NOT NULL UNIQUE,               -- sealed inbox key
    name BLOB UNIQUE,                         -- sealed; NULL: none given
    known INTEGER NOT NULL,                   -- 1: added, written to or accepted by the user
    blocked INTEGER NOT NULL DEFAULT 0,
    wanted_at INTEGER                         -- a message waits for the contact's card since then
);

-- inbox keys that contacts had before
CREATE TABLE contact_former (
    inbox BLOB PRIMARY KEY,                   -- sealed
    contact INTEGER NOT NULL REFERENCES contact ON DELETE CASCADE,
    number INTEGER NOT NULL,                  -- order in which they were given up
    at INTEGER NOT NULL                       -- when that was heard
) WITHOUT ROWID;
CREATE INDEX contact_former_of ON contact_former (contact);

CREATE TABLE conversation (
    conversation INTEGER PRIMARY KEY,
    contact INTEGER REFERENCES contact,       -- the other member of two; NULL: a group
    name BLOB,                                -- sealed name of a group
    standing INTEGER NOT NULL DEFAULT 0,      -- 0: a member, 1: left, the others were told, 2: removed, 3: away for too long
    group_id BLOB NOT NULL UNIQUE,            -- sealed
    epoch INTEGER NOT NULL,                   -- group epoch of the MLS state
    generation INTEGER NOT NULL,              -- of that epoch
    own_key INTEGER NOT NULL REFERENCES own_key, -- whose the own leaf is
    succession BLOB,                          -- sealed: the key that the own leaf was under before, and its word for this one
    request INTEGER NOT NULL,                 -- 1: a stranger's, not accepted
    active_at INTEGER NOT NULL,               -- last activity either way, milliseconds
    owing INTEGER NOT NULL DEFAULT 0,         -- 1: a message was shown that its writer was not told of
    healed_at INTEGER NOT NULL,               -- since when the keys of the own leaf are in use; 0: they are a card's
    commit_at INTEGER,                        -- an own commit is due then
    broken INTEGER NOT NULL DEFAULT 0,        -- 1: the members applied different commits, or none can be agreed on
    parted_epoch INTEGER,                     -- the first epoch of which members ended with different commits
    quit INTEGER NOT NULL DEFAULT 0           -- 1: the user left it: who adds us again asks
);
CREATE INDEX conversation_of_contact ON conversation (contact);

-- the other members of conversations, also those who were removed, as long as chains of theirs are read
CREATE TABLE member (
    member INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL REFERENCES conversation,
    contact INTEGER NOT NULL REFERENCES contact,
    leaf INTEGER NOT NULL,
    joined_epoch INTEGER NOT NULL,            -- the first group epoch in which it can read
    heard INTEGER NOT NULL DEFAULT 0,         -- 1: a record of its was read
    leaving INTEGER NOT NULL DEFAULT 0,       -- 1: it said that it leaves
    astray INTEGER NOT NULL DEFAULT 0,        -- 1: it went on from another commit: nothing of it is read
    lost INTEGER NOT NULL DEFAULT 0,          -- 1: it was away for too long and is to be added again
    left_at INTEGER,                          -- when it was removed
    inviter INTEGER NOT NULL DEFAULT 0,       -- 1: it brought us into the conversation
    told_epoch INTEGER,                       -- what the last records of the own chain said of its chains
    told_boxes INTEGER
);
CREATE INDEX member_of_conversation ON member (conversation);

-- what the user wants of a group and no commit has done yet
CREATE TABLE group_change (
    change INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversation,
    kind INTEGER NOT NULL,                    -- 0: add, 1: remove, 2: rename, 3: add again who cannot follow
    contact INTEGER REFERENCES contact,       -- whom to add or remove
    name BLOB,                                -- sealed new name
    card BLOB                                 -- sealed: key package and pointer key of whom to add; NULL: to be found
);

-- group epochs from the oldest that another member still writes in to the current one
CREATE TABLE group_epoch (
    conversation INTEGER NOT NULL REFERENCES conversation,
    epoch INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    secret BLOB NOT NULL,                     -- sealed commit secret
    slot INTEGER NOT NULL DEFAULT 0,          -- the slot to read next
    base INTEGER,                             -- the empty slot before it that still decides
    leaf INTEGER,                             -- who filled that slot, as its entry proves
    blob INTEGER REFERENCES blob_in,          -- the commit of that slot, being fetched
    named BLOB,                               -- sealed hash of the commit that another member's end names
    applied BLOB,                             -- sealed hash of the commit that ended the epoch here
    touched_at INTEGER NOT NULL,              -- when the slot was last seen empty at the replica that decides
    hold_until INTEGER NOT NULL DEFAULT 0,    -- no own commit before: the slot was out of sight for too long
    mute_since INTEGER,                       -- since when that replica alone does not answer,
    mute_seen INTEGER,                        -- and when that was seen last
    back_at INTEGER,                          -- when the slot was in sight again after having been out of it for long
    missing_since INTEGER,                    -- since when both say that it is empty, though a commit is named,
    missing_seen INTEGER,                     -- and when they said so last
    PRIMARY KEY (conversation, epoch)
) WITHOUT ROWID;

-- own commits: staged, then (merged) kept up until all members have followed
CREATE TABLE commit_out (
    commit_row INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversation,
    epoch INTEGER NOT NULL,                   -- the one it ends
    hash BLOB NOT NULL,                       -- sealed
    manifest BLOB NOT NULL,                   -- sealed
    blob INTEGER NOT NULL REFERENCES blob_out,
    slot INTEGER NOT NULL,
    body BLOB NOT NULL,                       -- sealed for the slot
    writer BLOB NOT NULL,                     -- sealed seed of the write key in the new leaf
    cuts BLOB NOT NULL,                       -- sealed: where the chains of those end whom it removes
    welcome BLOB,                             -- sealed Welcome of those whom it adds, until it won
    added BLOB,                               -- sealed: inbox and pointer key of each of them
    merged INTEGER NOT NULL DEFAULT 0,
    stored INTEGER NOT NULL DEFAULT 0,
    stored_at INTEGER,
    UNIQUE (conversation, epoch)
);

-- one member's boxes in one group epoch; when conversation is NULL, a card's or an invite's
CREATE TABLE chain (
    chain INTEGER PRIMARY KEY,
    conversation INTEGER REFERENCES conversation,
    member INTEGER REFERENCES member,         -- whose; NULL: ours
    epoch INTEGER NOT NULL,
    leaf INTEGER NOT NULL,
    own INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    secret BLOB NOT NULL,                     -- sealed chain secret; empty: erased
    writer BLOB NOT NULL,                     -- sealed: seed of the own write key, or the peer's public one
    next INTEGER NOT NULL DEFAULT 0,          -- next box to seal (own) or to read
    shown INTEGER NOT NULL DEFAULT 0,         -- read chains: boxes before it are in front of the user
    ended INTEGER NOT NULL DEFAULT 0,         -- read chains: 1: its end was read, or nothing more can come in it
    named BLOB,                               -- read chains: sealed hash of the commit that its end names
    cut INTEGER                               -- read chains: boxes from here on do not count, its writer was removed
);
CREATE INDEX chain_of_conversation ON chain (conversation);
CREATE INDEX chain_of_member ON chain (member);

-- boxes of own chains before it were shown to a member's user, as the member says
CREATE TABLE acknowledged (
    chain INTEGER NOT NULL REFERENCES chain ON DELETE CASCADE,
    member INTEGER NOT NULL REFERENCES member ON DELETE CASCADE,
    boxes INTEGER NOT NULL,
    PRIMARY KEY (chain, member)
) WITHOUT ROWID;

-- sealed boxes that replicas or the peer have not confirmed yet
CREATE TABLE box_out (
    box INTEGER PRIMARY KEY AUTOINCREMENT,
    chain INTEGER NOT NULL REFERENCES chain,
    j INTEGER NOT NULL,
    body BLOB NOT NULL,
    message INTEGER REFERENCES message_out,
    stored INTEGER NOT NULL DEFAULT 0,        -- bit p: replica p of the placement has it
    stored_at INTEGER,                        -- when both had it
    UNIQUE (chain, j)
);

CREATE INDEX box_of_message ON box_out (message);

CREATE TABLE message_out (
    message INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,                  -- sealed
    contact INTEGER REFERENCES contact,       -- to whom; NULL: to a group
    conversation INTEGER REFERENCES conversation,
    content BLOB NOT NULL,                    -- sealed record content
    blob INTEGER REFERENCES blob_out,
    state INTEGER NOT NULL DEFAULT 0,         -- 0 queued, 1 sent, 2 stored, 3 delivered, 4 taken back
    sealed INTEGER NOT NULL DEFAULT 0,        -- 1: in box_out, or taken back before
    cancel INTEGER NOT NULL DEFAULT 0         -- taken back: 1: its readers are to be told, 2: that is in box_out; 3: the
                                              -- conversation was left before it was delivered, and it goes nowhere any more
);
CREATE INDEX message_out_waiting ON message_out (contact, message) WHERE sealed = 0;
CREATE INDEX message_out_undelivered ON message_out (state) WHERE state < 3;
CREATE INDEX message_out_cancelled ON message_out (message) WHERE cancel = 1;

CREATE TABLE blob_out (
    blob INTEGER PRIMARY KEY AUTOINCREMENT,
    manifest BLOB NOT NULL,                   -- sealed
    generation INTEGER,                       -- NULL: not to be written yet
    stored_at INTEGER                         -- when both replicas had all of it
);

CREATE TABLE part_out (
    blob INTEGER NOT NULL REFERENCES blob_out,
    j INTEGER NOT NULL,
    part BLOB NOT NULL,                       -- sealed
    stored INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (blob, j)
) WITHOUT ROWID;

CREATE TABLE letter_out (
    letter INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL REFERENCES conversation,
    contact INTEGER NOT NULL REFERENCES contact,
    blob INTEGER REFERENCES blob_out,         -- the Welcome; the letter waits for it
    generation INTEGER NOT NULL,
    body BLOB NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0,
    stored_at INTEGER
);

CREATE TABLE blob_in (
    blob INTEGER PRIMARY KEY AUTOINCREMENT,
    manifest BLOB NOT NULL,                   -- sealed
    generation INTEGER NOT NULL,
    purpose INTEGER NOT NULL,                 -- 0: a message's content, 1: a Welcome, 2: a commit
    since INTEGER NOT NULL,                   -- when it was begun, or of a message when something of it came last, nearly
    absent_since INTEGER,                     -- of a Welcome or commit: since when parts of it are seen not to be there,
    absent_seen INTEGER                       -- and when that was seen last, nearly
);

CREATE TABLE part_in (
    blob INTEGER NOT NULL REFERENCES blob_in,
    j INTEGER NOT NULL,
    part BLOB NOT NULL,                       -- sealed
    PRIMARY KEY (blob, j)
) WITHOUT ROWID;

CREATE TABLE message_in (
    message INTEGER PRIMARY KEY AUTOINCREMENT,-- a sender's messages come in the order of the sender's chain
    conversation INTEGER NOT NULL REFERENCES conversation,
    contact INTEGER NOT NULL REFERENCES contact,
    chain INTEGER NOT NULL REFERENCES chain,
    j INTEGER NOT NULL,
    id BLOB NOT NULL,                         -- sealed
    content BLOB NOT NULL,                    -- sealed
    blob INTEGER REFERENCES blob_in,          -- NULL: whole
    received_at INTEGER NOT NULL,
    cursor INTEGER UNIQUE,                    -- NULL: held back
    UNIQUE (conversation, contact, id)
);
CREATE INDEX message_in_held ON message_in (conversation, message) WHERE cursor IS NULL;
CREATE INDEX message_in_by_id ON message_in (id);

CREATE TABLE card (
    card INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    period INTEGER NOT NULL,
    pointer BLOB NOT NULL,                    -- sealed secret of the pointer key
    writer BLOB NOT NULL,                     -- sealed seed of the write key of conversations joined through it
    package BLOB NOT NULL,                    -- sealed reference of the key package
    chain INTEGER NOT NULL REFERENCES chain,
    own_key INTEGER NOT NULL REFERENCES own_key, -- whose it is
    UNIQUE (own_key, generation, period)
);

-- own invites that are not over
CREATE TABLE invite_made (
    invite INTEGER PRIMARY KEY AUTOINCREMENT,
    seed BLOB NOT NULL,                       -- sealed
    generation INTEGER NOT NULL,
    made_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    name BLOB,                                -- sealed: what whoever uses it will be called
    writer BLOB NOT NULL,                     -- sealed seed of the write key in the key package
    package BLOB NOT NULL,                    -- sealed reference of the key package
    chain INTEGER NOT NULL REFERENCES chain,  -- where the key package lies
    own_key INTEGER NOT NULL REFERENCES own_key, -- whose it is
    claim BLOB,                               -- sealed write key of whoever uses it
    welcome INTEGER                           -- the Welcome, being fetched: a blob_in
);

-- another person's invite that is being used
CREATE TABLE invite_used (
    contact INTEGER PRIMARY KEY REFERENCES contact,
    seed BLOB NOT NULL,                       -- sealed
    generation INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    writer BLOB NOT NULL,                     -- sealed seed of the write key that the claim names
    package BLOB,                             -- sealed key package; NULL: to be found
    claim INTEGER REFERENCES chain,           -- where the claim is written
    conversation INTEGER REFERENCES conversation, -- what it founded
    pointer INTEGER REFERENCES chain,         -- where the pointer to the Welcome is written
    welcome INTEGER REFERENCES blob_out
);

CREATE TABLE inbox_cursor (
    own_key INTEGER NOT NULL REFERENCES own_key, -- whose inbox
    generation INTEGER NOT NULL,
    store INTEGER NOT NULL,
    after INTEGER NOT NULL,
    PRIMARY KEY (own_key, generation, store)
) WITHOUT ROWID;

CREATE TABLE letter_seen (
    hash BLOB PRIMARY KEY,                    -- sealed hash of the body
    at INTEGER NOT NULL
) WITHOUT ROWID;

-- what the user was told and has not seen yet
CREATE TABLE notice (
    notice INTEGER PRIMARY KEY AUTOINCREMENT,
    text BLOB NOT NULL UNIQUE,                -- sealed: a word for programs, and a sentence
    at BLOB NOT NULL                          -- sealed: when
);

-- documents of the consensus that were held; which, says when the client ran: sealed
CREATE TABLE document_held (
    document INTEGER PRIMARY KEY AUTOINCREMENT,
    mark BLOB NOT NULL,                       -- sealed
    certificate BLOB                          -- sealed; NULL: no longer kept
);

CREATE TABLE authority_set (
    authority_set INTEGER PRIMARY KEY,
    keys BLOB NOT NULL UNIQUE                 -- sealed
);

-- what accepted contacts said of the documents that they hold
CREATE TABLE mark_heard (
    contact INTEGER PRIMARY KEY REFERENCES contact,
    heard BLOB NOT NULL                       -- sealed
);

-- the certificate of a document held here that the other members are owed
CREATE TABLE proof_owed (
    conversation INTEGER PRIMARY KEY REFERENCES conversation,
    owed BLOB NOT NULL                        -- sealed
);

-- the certificate that a member is sending
CREATE TABLE proof_in (
    member INTEGER NOT NULL REFERENCES member ON DELETE CASCADE,
    number INTEGER NOT NULL,
    part BLOB NOT NULL,                       -- sealed
    PRIMARY KEY (member, number)
) WITHOUT ROWID;
";

/// Contacts whose safety number the user compared.
pub(super) const VERIFIED: &str = "
CREATE TABLE contact_verified (
    contact INTEGER PRIMARY KEY REFERENCES contact,
    number BLOB NOT NULL                      -- sealed: the safety number that was compared
);
";
