//! Strict CBOR for messages, log entries and evidence: one definite array of fields in a fixed order, lengths checked
//! before anything is read, shortest forms enforced by encoding the parsed value again.

use minicbor::{Decoder, Encoder};
use shoal_protocol::authority::{HYBRID_SIGNATURE_SIZE, HybridSignature};
use shoal_protocol::{Epoch, Hash};

use super::scheme::{DocumentId, Sig};

/// What a strict reader answers: the value, or which field was wrong.
pub(crate) type Parsed<T> = Result<T, &'static str>;

/// Writes into memory.
pub(crate) struct Writer(Encoder<Vec<u8>>);

/// `Encoder<Vec<u8>>` has `Infallible` as its write error.
const IN_MEMORY: &str = "writing to a Vec cannot fail";

/// Encodes by `fill`.
pub(crate) fn encode(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer(Encoder::new(Vec::new()));
    fill(&mut writer);
    writer.0.into_writer()
}

impl Writer {
    pub(crate) fn array(&mut self, len: usize) {
        self.0.array(len as u64).expect(IN_MEMORY);
    }

    pub(crate) fn uint(&mut self, value: impl Into<u64>) {
        self.0.u64(value.into()).expect(IN_MEMORY);
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.0.bytes(value).expect(IN_MEMORY);
    }

    pub(crate) fn null(&mut self) {
        self.0.null().expect(IN_MEMORY);
    }

    pub(crate) fn hash(&mut self, value: &Hash) {
        self.bytes(value.as_bytes());
    }

    /// `[epoch, hash]`.
    pub(crate) fn document(&mut self, value: &DocumentId) {
        self.array(2);
        self.uint(value.epoch.0);
        self.hash(&value.hash);
    }

    pub(crate) fn optional_document(&mut self, value: Option<&DocumentId>) {
        match value {
            Some(document) => self.document(document),
            None => self.null(),
        }
    }

    pub(crate) fn optional_round(&mut self, value: Option<u32>) {
        match value {
            Some(round) => self.uint(round),
            None => self.null(),
        }
    }

    pub(crate) fn signature(&mut self, value: &Sig) {
        self.bytes(value.get().as_bytes());
    }
}

/// A strict reader.
pub(crate) struct Reader<'b>(Decoder<'b>);

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self(Decoder::new(bytes))
    }

    /// The length of an array header.
    pub(crate) fn array_len(&mut self, field: &'static str) -> Parsed<u64> {
        match self.0.array() {
            Ok(Some(len)) => Ok(len),
            _ => Err(field),
        }
    }

    /// An array header of exactly `len` elements.
    pub(crate) fn array(&mut self, len: u64, field: &'static str) -> Parsed<()> {
        if self.array_len(field)? == len { Ok(()) } else { Err(field) }
    }

    /// A list of `1..=max` elements.
    pub(crate) fn list<T>(
        &mut self,
        max: usize,
        field: &'static str,
        mut element: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let len = usize::try_from(self.array_len(field)?).map_err(|_| field)?;
        if len == 0 || len > max {
            return Err(field);
        }
        // No capacity from the claimed length: memory grows only with bytes that are really there.
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(element(self)?);
        }
        Ok(items)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Parsed<u64> {
        self.0.u64().map_err(|_| field)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Parsed<u32> {
        self.0.u32().map_err(|_| field)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Parsed<u16> {
        self.0.u16().map_err(|_| field)
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Parsed<&'b [u8]> {
        self.0.bytes().map_err(|_| field)
    }

    pub(crate) fn hash(&mut self, field: &'static str) -> Parsed<Hash> {
        Ok(Hash::from_bytes(self.bytes(field)?.try_into().map_err(|_| field)?))
    }

    pub(crate) fn signature(&mut self, field: &'static str) -> Parsed<Sig> {
        let bytes = self.bytes(field)?;
        if bytes.len() != HYBRID_SIGNATURE_SIZE {
            return Err(field);
        }
        HybridSignature::from_slice(bytes).map(Sig::new).map_err(|_| field)
    }

    fn is_null(&mut self, field: &'static str) -> Parsed<bool> {
        match self.0.datatype() {
            Ok(minicbor::data::Type::Null) => self.0.null().map(|()| true).map_err(|_| field),
            Ok(_) => Ok(false),
            Err(_) => Err(field),
        }
    }

    pub(crate) fn document(&mut self, field: &'static str) -> Parsed<DocumentId> {
        self.array(2, field)?;
        Ok(DocumentId { epoch: Epoch(self.u64(field)?), hash: self.hash(field)? })
    }

    pub(crate) fn optional_document(&mut self, field: &'static str) -> Parsed<Option<DocumentId>> {
        if self.is_null(field)? { Ok(None) } else { self.document(field).map(Some) }
    }

    pub(crate) fn optional_round(&mut self, field: &'static str) -> Parsed<Option<u32>> {
        if self.is_null(field)? { Ok(None) } else { self.u32(field).map(Some) }
    }

    pub(crate) fn optional_bytes(&mut self, field: &'static str) -> Parsed<Option<&'b [u8]>> {
        if self.is_null(field)? { Ok(None) } else { self.bytes(field).map(Some) }
    }

    /// Nothing may follow.
    pub(crate) fn end(&self, field: &'static str) -> Parsed<()> {
        if self.0.position() == self.0.input().len() { Ok(()) } else { Err(field) }
    }
}
