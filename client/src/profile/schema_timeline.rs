//! Tables of what a screen shows: the order of own and others' messages, and how far the user has seen it.
//!
//! The order is kept by the database itself: whatever writes a message, and whatever gives one its place in the reading
//! order, the entry is made in the same transaction. Nobody can forget it, and a clock that is set back changes
//! nothing.

/// Beside those of `schema`.
pub(super) const TABLES: &str = "
-- own and others' messages in the order in which they were written or shown here
CREATE TABLE timeline (
    entry INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER REFERENCES conversation ON DELETE CASCADE, -- NULL: waits for the contact's card
    contact INTEGER,                          -- whom an own message was written to
    sent INTEGER UNIQUE REFERENCES message_out ON DELETE CASCADE,
    received INTEGER UNIQUE REFERENCES message_in ON DELETE CASCADE
);
CREATE INDEX timeline_of_conversation ON timeline (conversation, entry);
CREATE INDEX timeline_unseen ON timeline (conversation, entry) WHERE received IS NOT NULL;
CREATE INDEX timeline_waiting ON timeline (contact, entry) WHERE conversation IS NULL;

CREATE TRIGGER timeline_sent AFTER INSERT ON message_out BEGIN
    INSERT INTO timeline (conversation, contact, sent) VALUES (NEW.conversation, NEW.contact, NEW.message);
END;
CREATE TRIGGER timeline_adopted AFTER UPDATE OF conversation ON message_out BEGIN
    UPDATE timeline SET conversation = NEW.conversation WHERE sent = NEW.message;
END;
CREATE TRIGGER timeline_received AFTER UPDATE OF cursor ON message_in
    WHEN OLD.cursor IS NULL AND NEW.cursor IS NOT NULL
BEGIN
    INSERT INTO timeline (conversation, received) VALUES (NEW.conversation, NEW.message);
END;

-- up to which entry the user has seen a conversation
CREATE TABLE timeline_seen (
    conversation INTEGER PRIMARY KEY REFERENCES conversation ON DELETE CASCADE,
    entry INTEGER NOT NULL
);

-- own texts that went out as blobs: those are erased when they have arrived
CREATE TABLE own_text (
    message INTEGER PRIMARY KEY REFERENCES message_out ON DELETE CASCADE,
    text BLOB NOT NULL                        -- sealed
);
";
