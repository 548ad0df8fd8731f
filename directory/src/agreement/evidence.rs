//! Self-contained proof that an authority signed two things that contradict each other.

use shoal_protocol::Hash;

use super::codec::{self, Parsed, Reader, Writer};
use super::message::{SignedBallot, put_vote, read_vote};
use super::scheme::{Headline, Scheme, Sig};

/// Two signed messages of one authority for one height and round, of which an honest one signs one at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence(Pair);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pair {
    Votes(SignedBallot, SignedBallot),
    Proposals((Headline, Sig), (Headline, Sig)),
}

impl Evidence {
    /// `None` if the two do not contradict each other.
    pub(crate) fn of_votes(one: SignedBallot, two: SignedBallot) -> Option<Self> {
        let (a, b) = (&one.ballot, &two.ballot);
        let same_place = (a.kind, a.height, a.round, a.authority) == (b.kind, b.height, b.round, b.authority);
        (same_place && a.document != b.document).then_some(Self(Pair::Votes(one, two)))
    }

    /// `None` if the two do not contradict each other.
    pub(crate) fn of_proposals(one: (Headline, Sig), two: (Headline, Sig)) -> Option<Self> {
        let (a, b) = (&one.0, &two.0);
        let same_place = (a.height, a.round, a.authority) == (b.height, b.round, b.authority);
        (same_place && a != b).then_some(Self(Pair::Proposals(one, two)))
    }

    /// Whom it convicts: index into the authority list of its height.
    #[must_use]
    pub fn authority(&self) -> u16 {
        match &self.0 {
            Pair::Votes(one, _) => one.ballot.authority,
            Pair::Proposals(one, _) => one.0.authority,
        }
    }

    /// The height at which it happened.
    #[must_use]
    pub fn height(&self) -> u64 {
        match &self.0 {
            Pair::Votes(one, _) => one.ballot.height,
            Pair::Proposals(one, _) => one.0.height,
        }
    }

    /// Whether both signatures are the authority's.
    pub fn verify(&self, network: &Hash, scheme: &impl Scheme) -> bool {
        let holds = |authority, (context, message): (&'static str, Vec<u8>), signature: &Sig| {
            scheme.verify(authority, context, &message, signature.get())
        };
        match &self.0 {
            Pair::Votes(one, two) => {
                [one, two].iter().all(|v| holds(v.ballot.authority, v.ballot.signed(network), &v.signature))
            }
            Pair::Proposals(one, two) => [one, two].iter().all(|p| holds(p.0.authority, p.0.signed(network), &p.1)),
        }
    }

    /// The exact bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(|writer| match &self.0 {
            Pair::Votes(one, two) => {
                writer.array(5);
                writer.uint(0_u32);
                writer.uint(one.ballot.height);
                writer.uint(one.ballot.round);
                for vote in [one, two] {
                    writer.array(4);
                    put_vote(writer, vote);
                }
            }
            Pair::Proposals(one, two) => {
                writer.array(6);
                writer.uint(1_u32);
                writer.uint(one.0.height);
                writer.uint(one.0.round);
                writer.uint(one.0.authority);
                for (headline, signature) in [one, two] {
                    writer.array(4);
                    put_headline(writer, headline, signature);
                }
            }
        })
    }

    /// Reads evidence; signatures are [`Self::verify`]'s business.
    ///
    /// # Errors
    /// Names the field that is wrong, also when the two messages do not contradict each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = Reader::new(bytes);
        let len = reader.array_len("evidence")?;
        let code = reader.u32("evidence")?;
        let height = reader.u64("height")?;
        let round = reader.u32("round")?;
        let evidence = match (code, len) {
            (0, 5) => {
                let mut vote = || {
                    reader.array(4, "vote")?;
                    read_vote(&mut reader, height, round)
                };
                Self::of_votes(vote()?, vote()?)
            }
            (1, 6) => {
                let authority = reader.u16("authority")?;
                let mut proposal = || {
                    reader.array(4, "proposal")?;
                    read_headline(&mut reader, height, round, authority)
                };
                Self::of_proposals(proposal()?, proposal()?)
            }
            _ => return Err("evidence (unknown kind)"),
        };
        reader.end("bytes after the evidence")?;
        match evidence {
            Some(evidence) if evidence.encode() == bytes => Ok(evidence),
            Some(_) => Err("evidence (not in canonical form)"),
            None => Err("evidence (no contradiction)"),
        }
    }
}

/// lock round or null, document, payload hash, signature.
pub(crate) fn put_headline(writer: &mut Writer, headline: &Headline, signature: &Sig) {
    writer.optional_round(headline.lock_round);
    writer.document(&headline.document);
    writer.hash(&headline.payload);
    writer.signature(signature);
}

/// The reverse of [`put_headline`].
pub(crate) fn read_headline(
    reader: &mut Reader<'_>,
    height: u64,
    round: u32,
    authority: u16,
) -> Parsed<(Headline, Sig)> {
    let lock_round = reader.optional_round("lock round")?;
    let document = reader.document("document")?;
    let payload = reader.hash("payload")?;
    let signature = reader.signature("signature")?;
    Ok((Headline { height, round, lock_round, document, payload, authority }, signature))
}
