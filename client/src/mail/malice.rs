//! What peers and strangers may write, and what it must not do.

use super::flight::{Flight, Purpose as Aim, Reader};
use super::letters::Letter;
use super::*;
use crate::blobs::Manifest;
use crate::blobs_store::Purpose;
use crate::card::{self, Card, CardChain, CardPlace};
use crate::conversations::Origin;
use crate::conversations_mls::{self, testing};
use crate::profile::private_dir;
use crate::records::{BlobKind, Content, NO_MARK, Record, Seen};
use crate::want::Rank;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::boxes::{self, BoxBody, WriteKey};
use shoal_protocol::consensus::Mark;
use shoal_protocol::geometry::BOX_PLAINTEXT_SIZE;
use shoal_protocol::inbox::card_period;
use shoal_protocol::network::Hints;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::request::{Answer, Status};
use shoal_protocol::{Hash, StoreIndex};
use std::time::Duration;
use tempfile::TempDir;

const NOW: UnixMillis = crate::testing::START;
const GENERATION: u32 = 2;

/// Bob, and Mallory, whose profile helps to make what a modified client could send.
pub(super) struct Scene {
    pub(super) bob: Mail,
    pub(super) mallory: Mail,
    pub(super) consensus: Consensus,
    pub(super) now: UnixMillis,
    pub(super) rng: StdRng,
    /// The only authority of the network.
    pub(super) authority: AuthoritySecret,
    /// What stands in Bob's place while his profile is opened again.
    nobody: Option<Mail>,
    folder: TempDir,
}

impl Scene {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut consensus, _) = crate::testing::consensus(1, 1, 3);
        let authority = AuthoritySecret::generate(&mut rng);
        let network = NetworkFile {
            name: "malice".to_owned(),
            genesis_time: NOW,
            authorities: vec![authority.public().clone()],
            parameters: consensus.parameters,
            founding: shoal_protocol::network::Founding::default(),
            hints: Hints::default(),
        };
        consensus.network = network.genesis_hash();
        consensus.authorities.clone_from(&network.authorities);
        let folder = TempDir::new().unwrap();
        let mut mail = |name| Mail::create(&folder.path().join(name), &network, RateClass::Normal, &mut rng).unwrap();
        let (bob, mallory) = (mail("bob"), mail("mallory"));
        Self { bob, mallory, consensus, now: NOW, rng, authority, nobody: None, folder }
    }

    /// Bob's card, as he publishes it.
    fn card(&mut self) -> Card {
        self.bob.publish_card(self.now, &self.consensus, &mut self.rng).unwrap();
        let place = CardPlace { generation: GENERATION, period: card_period(self.now, &self.consensus.parameters) };
        let (owner, db) = (self.bob.profile.own.public(), &self.bob.profile.db);
        let chain = CardChain::new(owner, place);
        let boxes =
            chains::unstored(db).unwrap().into_iter().map(|(row, _, _)| chains::out_box(db, row).unwrap().unwrap());
        let parts: Vec<_> = boxes.map(|out| chain.open(out.j, &out.body).unwrap()).collect();
        card::read(&owner, place, &parts).unwrap()
    }

    /// A Welcome has come to Bob, whole.
    fn deliver(&mut self, welcome: &[u8]) {
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut secret);
        let (db, vault) = (&self.bob.profile.db, &self.bob.profile.vault);
        let manifest = Manifest::of(welcome, secret);
        let blob = blobs_store::insert_in(db, vault, &manifest, GENERATION, Purpose::Welcome, true, self.now).unwrap();
        for (j, part) in (0..).zip(welcome.chunks(BOX_PLAINTEXT_SIZE)) {
            blobs_store::insert_part(db, vault, blob.row, j, part).unwrap();
        }
        self.bob.reload().unwrap();
    }

    /// Mallory founds a conversation by the rules, and Bob joins.
    pub(super) fn acquaint(&mut self) {
        let package = self.card().key_package;
        let (profile, writer) = (&self.mallory.profile, WriteKey::generate(&mut self.rng));
        let to = self.bob.profile.own.public();
        let provider = provider(profile, &self.mallory.crypto, &profile.db);
        let founded = conversations_mls::found(
            &provider,
            profile.own.current(),
            &writer,
            &to,
            &package,
            GENERATION,
            &mut self.rng,
        );
        let (begun, welcome) = founded.unwrap();
        drop(provider);
        contacts::insert(&profile.db, &profile.vault, &to, true).unwrap();
        conversations::insert(&profile.db, &profile.vault, &begun, &writer, Origin::Founded, self.now).unwrap();
        self.deliver(&welcome);
        self.ticks(1);
        assert_eq!(self.bob.conversations().unwrap().len(), 1);
    }

    /// Mallory seals whatever record into her next box. `seen` speaks of Bob's leaf, 1.
    pub(super) fn write(&mut self, seen: Seen, content: Content) -> (u64, BoxBody) {
        self.write_under(NO_MARK, seen, content)
    }

    /// The same, and she says that she holds this document.
    pub(super) fn write_under(&mut self, mark: Mark, seen: Seen, content: Content) -> (u64, BoxBody) {
        let (db, vault) = (&self.mallory.profile.db, &self.mallory.profile.vault);
        let conversation = conversations::all(db, vault).unwrap().remove(0);
        let own = chains::writing(db, vault, conversation.row).unwrap();
        let provider = provider(&self.mallory.profile, &self.mallory.crypto, db);
        let bytes = Record { seen: vec![seen], mark, content }.to_bytes();
        let sealed = conversations_mls::seal(&provider, &conversation.id.0, &bytes).unwrap();
        let id = own.id(own.next);
        let body = boxes::seal(&own.secret, own.next, &id, &sealed, &mut self.rng).unwrap();
        chains::push_box(db, &own, &body, None).unwrap();
        (own.next, body)
    }

    /// Bob reads a box of Mallory's chain.
    pub(super) fn read(&mut self, (j, body): &(u64, BoxBody)) {
        let chain = *self.bob.memory.readers.keys().next().unwrap();
        let found = Answer { status: Status::Found, number: u64::MAX, body: Some(body.clone()) };
        let answers = Answers {
            replicas: [StoreIndex(0), StoreIndex(1)],
            by_replica: [Some(found), Some(Answer::plain(Status::Empty))],
        };
        self.bob.box_read(chain, *j, Some(&answers), self.now, &self.consensus, &mut self.rng).unwrap();
    }

    /// Bob's client ends between two instructions, and starts again.
    pub(super) fn crash(&mut self) {
        let (dir, network) = (self.bob.dir().to_path_buf(), self.bob.network().clone());
        let nobody = self.nobody.take().unwrap_or_else(|| {
            Mail::create(&self.folder.path().join("nobody"), &network, RateClass::Normal, &mut self.rng).unwrap()
        });
        drop(std::mem::replace(&mut self.bob, nobody));
        let again = Mail::open(&dir).unwrap();
        self.nobody = Some(std::mem::replace(&mut self.bob, again));
    }

    /// Ticks of Bob's payload clock, none of which may fail.
    pub(super) fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.now = self.now.plus(Duration::from_millis(100));
            self.bob.next_want(self.now, &self.consensus, &mut self.rng).unwrap();
        }
    }

    pub(super) fn warned(&mut self, about: &str) -> bool {
        self.bob.take_events().iter().any(|event| matches!(event, Event::Warning { code, .. } if *code == about))
    }
}

pub(super) fn text(n: u8, sent_at: u64) -> Content {
    Content::Text { id: [n; 16], sent_at: UnixMillis(sent_at), text: format!("text {n}") }
}

#[test]
fn a_welcome_of_the_last_epoch_is_dropped() {
    let mut scene = Scene::new(1);
    let package = scene.card().key_package;
    for epoch in [u64::MAX, 1 << 63] {
        let profile = &scene.mallory.profile;
        let provider = provider(profile, &scene.mallory.crypto, &profile.db);
        let welcome =
            testing::welcome_of_epoch(&provider, profile.own.current(), &package, GENERATION, epoch, &mut scene.rng);
        drop(provider);
        scene.deliver(&welcome);
        scene.ticks(20);
        assert!(scene.bob.memory.blobs_in.is_empty() && scene.bob.conversations().unwrap().is_empty());
        assert!(!scene.warned("blob_failed"), "dropped without a word");
    }
    scene.acquaint();
}

#[test]
fn what_cannot_be_taken_up_rests_alone() {
    let mut scene = Scene::new(2);
    scene.acquaint();
    let files = scene.bob.dir().join("files");
    std::fs::remove_dir(&files).unwrap();
    std::fs::write(&files, "no folder").unwrap();
    let manifest = Manifest::of(b"", [3; 32]);
    let kind = BlobKind::File { name: "note".to_owned(), mime: "text/plain".to_owned() };
    let content = Content::Blob { id: [1; 16], sent_at: scene.now, kind, manifest };
    let file = scene.write(Seen::default(), content);
    scene.read(&file);
    assert!(scene.warned("blob_failed"));
    scene.ticks(50);
    assert!(!scene.warned("blob_failed"), "it rests");
    std::fs::remove_file(&files).unwrap();
    private_dir(&files).unwrap();
    scene.now = scene.now.plus(Duration::from_secs(120));
    scene.ticks(2);
    assert_eq!(scene.bob.messages(0, 10).unwrap().len(), 1);
}

#[test]
fn the_largest_number_in_every_field_spoils_only_its_own_box() {
    let mut scene = Scene::new(3);
    scene.acquaint();
    let max = u64::MAX;
    let blob = |n, sent_at, length| Content::Blob {
        id: [n; 16],
        sent_at: UnixMillis(sent_at),
        kind: BlobKind::Text,
        manifest: Manifest::new([n; 32], length, Hash::from_bytes([n; 32])),
    };
    let records = [
        (Seen { leaf: 1, epoch: max, boxes: 0 }, text(1, 0)),
        (Seen { leaf: 1, epoch: 1, boxes: max }, text(2, 0)),
        (Seen { leaf: 1, epoch: 1 << 63, boxes: 0 }, Content::Receipt),
        (Seen::default(), text(3, max)),
        (Seen::default(), blob(4, max, 5)),
        (Seen::default(), blob(5, 0, max)),
        (Seen { leaf: 1, epoch: max, boxes: max }, blob(6, max, max)),
    ];
    for (seen, content) in records {
        let spoilt = scene.write(seen, content);
        // it may be asked for again some times before it is passed over
        (0..3).for_each(|_| scene.read(&spoilt));
        let reader = scene.bob.memory.readers.values().next().unwrap();
        assert_eq!(reader.chain.next, spoilt.0 + 1, "box {}", spoilt.0);
        scene.ticks(3);
    }
    let (good, edge) = (scene.write(Seen::default(), text(8, 0)), max >> 1);
    scene.read(&good);
    let last = scene.write(Seen { leaf: 1, epoch: edge, boxes: edge }, text(9, edge));
    scene.read(&last);
    let shown: Vec<_> = scene.bob.messages(0, 10).unwrap().into_iter().map(|message| message.text).collect();
    assert_eq!(shown, ["text 8", "text 9"]);
}

#[test]
fn strangers_do_not_buy_ticks() {
    let mut scene = Scene::new(4);
    scene.acquaint();
    let parameters = Parameters::production();
    let later = |ms| scene.now.plus(Duration::from_millis(ms));
    let reader = scene.bob.memory.readers.values_mut().next().unwrap();
    reader.active_at = scene.now;
    let class = |reader: &Reader, ms| reader.class(later(ms), &parameters);
    assert!(reader.request);
    assert_eq!(class(reader, 0), Rank::Warm, "the first message is waited for");
    assert_eq!(class(reader, parameters.hot_for_ms), Rank::Idle, "but not for long");
    reader.chain.next = 1;
    assert_eq!(class(reader, 0), Rank::Idle);
    reader.request = false;
    assert_eq!(class(reader, 0), Rank::Hot);
    let most = |class| conversations::requests_max(&parameters, class);
    assert_eq!((most(RateClass::Normal), most(RateClass::Low)), (256, 7));
}

#[test]
fn one_replica_alone_sets_no_price_and_prices_end_with_the_epoch() {
    let mut scene = Scene::new(5);
    scene.acquaint();
    let contact = contacts::all(&scene.bob.profile.db, &scene.bob.profile.vault).unwrap()[0].row;
    let body = BoxBody::random(&mut scene.rng);
    scene.bob.memory.letters.insert(1, Letter::new(contact, None, GENERATION, body));
    scene.ticks(1);
    let least = scene.consensus.parameters.append_bits;
    let bits =
        |scene: &Scene| scene.bob.memory.letters.get(&1).and_then(|letter: &Letter| letter.work.as_ref()).unwrap().bits;
    let flight = Flight { purpose: Aim::Append { letter: 1 }, placement: [StoreIndex(0), StoreIndex(1)], since: NOW };
    let refuse = |scene: &mut Scene, asked: [Option<u64>; 2]| {
        let by_replica = asked.map(|number| Some(Answer { number: number?, ..Answer::plain(Status::Refused) }));
        let answers = Answers { replicas: flight.placement, by_replica };
        let (now, rng) = (scene.now, &mut scene.rng);
        scene.bob.letter_appended(1, &flight, Some(&answers), now, &scene.consensus, rng).unwrap();
        bits(scene)
    };
    assert_eq!(refuse(&mut scene, [Some(28), None]), least + 4);
    assert_eq!(refuse(&mut scene, [Some(u64::MAX), Some(28)]), least + 4);
    assert_eq!(refuse(&mut scene, [Some(28), Some(16)]), 16);
    assert!(!scene.warned("inbox_closed"));
    scene.now = scene.now.plus(scene.consensus.parameters.epoch());
    scene.ticks(1);
    assert_eq!(bits(&scene), least);
}

#[test]
fn keys_of_old_cards_are_forgotten_unless_a_conversation_uses_them() {
    let mut scene = Scene::new(6);
    scene.card();
    assert_eq!(testing::signature_keys(&scene.bob.profile.db), 1);
    let retention = scene.consensus.parameters.retention();
    scene.bob.forget_old_cards(scene.now.plus(retention * 4), &scene.consensus).unwrap();
    assert_eq!(testing::signature_keys(&scene.bob.profile.db), 0);
    let mut scene = Scene::new(7);
    scene.acquaint();
    scene.bob.forget_old_cards(scene.now.plus(retention * 4), &scene.consensus).unwrap();
    assert_eq!(testing::signature_keys(&scene.bob.profile.db), 1, "the conversation still signs with it");
}

#[test]
fn taking_back_undoes_nothing_but_an_own_message_that_is_not_whole() {
    let mut scene = Scene::new(8);
    scene.acquaint();
    let blob = |n| Content::Blob {
        id: [n; 16],
        sent_at: NOW,
        kind: BlobKind::Text,
        manifest: Manifest::new([n; 32], 5_000, Hash::from_bytes([n; 32])),
    };
    let cancel = |n| Content::Cancel { id: [n; 16] };
    let shown = |scene: &Scene| {
        let messages = scene.bob.messages(0, 10).unwrap();
        messages.into_iter().map(|message| message.text).collect::<Vec<_>>()
    };
    // whole, unknown, of somebody else: nothing happens
    let own = scene.bob.conversations().unwrap()[0].id.to_string();
    let of_bob = scene.bob.send(&own, "mine", scene.now, &mut scene.rng).unwrap();
    for content in [text(1, 0), cancel(1), cancel(2), Content::Cancel { id: of_bob.0 }] {
        let written = scene.write(Seen::default(), content);
        scene.read(&written);
    }
    assert_eq!(shown(&scene), ["text 1"]);
    assert_eq!(scene.bob.state(of_bob).unwrap().state, MessageState::Queued);
    // what is not whole ends, and what it held back is shown; a second word for it changes nothing
    for content in [blob(3), text(4, 0)] {
        let written = scene.write(Seen::default(), content);
        scene.read(&written);
    }
    assert_eq!((shown(&scene).len(), scene.bob.memory.blobs_in.len()), (1, 1));
    for content in [cancel(3), cancel(3), text(5, 0)] {
        let written = scene.write(Seen::default(), content);
        scene.read(&written);
        scene.crash();
    }
    assert_eq!(
        (shown(&scene), scene.bob.memory.blobs_in.len()),
        (vec!["text 1".into(), "text 4".into(), "text 5".into()], 0)
    );
    assert!(!scene.warned("blob_refused"));
}
