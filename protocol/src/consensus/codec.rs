//! Strict CBOR for signed documents, those of this crate and those that authorities exchange among themselves.
//!
//! Every document is one definite-length array of fields in a fixed order. A reader states how many elements it expects
//! and how long a list may be *before* it reads one, so a hostile length costs nothing; that integers and lengths are in
//! their shortest form is checked afterwards, once, by encoding the parsed value again and comparing the bytes.

use std::net::{IpAddr, SocketAddr};

use minicbor::{Decoder, Encoder};

use crate::types::{Epoch, Identity, Layer, Role};
use crate::x25519::X25519Public;

/// Writes into memory, which cannot fail.
pub type Writer = Encoder<Vec<u8>>;

/// What a strict reader answers: the value, or which field was wrong.
pub type Parsed<T> = Result<T, &'static str>;

/// Encodes one document by `fill`.
pub fn encode(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Encoder::new(Vec::new());
    fill(&mut writer);
    writer.into_writer()
}

/// The infallible half of minicbor's encoder, so that document code need not repeat why writing to memory cannot fail.
pub trait Put {
    /// Opens an array of exactly `len` elements.
    fn put_array(&mut self, len: usize);
    /// One unsigned integer.
    fn put_uint(&mut self, value: u64);
    /// One signed integer.
    fn put_int(&mut self, value: i64);
    /// Only the head of a byte string of `len` bytes, which follow.
    fn put_head_of_bytes(&mut self, len: usize);
    /// One byte string.
    fn put_bytes(&mut self, value: &[u8]);
    /// One text string.
    fn put_text(&mut self, value: &str);
    /// One boolean.
    fn put_bool(&mut self, value: bool);
    /// An absent optional value.
    fn put_null(&mut self);
}

/// `Encoder<Vec<u8>>` has `Infallible` as its write error.
const IN_MEMORY: &str = "writing to a Vec cannot fail";

impl Put for Writer {
    fn put_array(&mut self, len: usize) {
        self.array(len as u64).expect(IN_MEMORY);
    }

    fn put_uint(&mut self, value: u64) {
        self.u64(value).expect(IN_MEMORY);
    }

    fn put_int(&mut self, value: i64) {
        self.i64(value).expect(IN_MEMORY);
    }

    fn put_head_of_bytes(&mut self, len: usize) {
        self.bytes_len(len as u64).expect(IN_MEMORY);
    }

    fn put_bytes(&mut self, value: &[u8]) {
        self.bytes(value).expect(IN_MEMORY);
    }

    fn put_text(&mut self, value: &str) {
        self.str(value).expect(IN_MEMORY);
    }

    fn put_bool(&mut self, value: bool) {
        self.bool(value).expect(IN_MEMORY);
    }

    fn put_null(&mut self) {
        self.null().expect(IN_MEMORY);
    }
}

/// A strict reader over one document's bytes.
pub struct Reader<'b>(Decoder<'b>);

impl<'b> Reader<'b> {
    /// Reads `bytes` from their beginning.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(Decoder::new(bytes))
    }

    /// An array header with exactly `len` elements.
    pub fn array(&mut self, len: usize, field: &'static str) -> Parsed<()> {
        match self.0.array() {
            Ok(Some(n)) if n == len as u64 => Ok(()),
            _ => Err(field),
        }
    }

    /// A list of `min..=max` elements, each read by `element`.
    pub fn list<T>(
        &mut self,
        min: usize,
        max: usize,
        field: &'static str,
        mut element: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let len = match self.0.array() {
            Ok(Some(n)) => usize::try_from(n).map_err(|_| field)?,
            _ => return Err(field),
        };
        if !(min..=max).contains(&len) {
            return Err(field);
        }
        // No capacity from the claimed length: memory grows only with bytes that are really there.
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(element(self)?);
        }
        Ok(items)
    }

    /// An unsigned integer of at most 64 bits.
    ///
    /// # Errors
    /// The name of the field.
    pub fn u64(&mut self, field: &'static str) -> Parsed<u64> {
        self.0.u64().map_err(|_| field)
    }

    /// A signed integer of at most 64 bits.
    ///
    /// # Errors
    /// The name of the field.
    pub fn i64(&mut self, field: &'static str) -> Parsed<i64> {
        self.0.i64().map_err(|_| field)
    }

    /// An unsigned integer of at most 32 bits.
    ///
    /// # Errors
    /// The name of the field.
    pub fn u32(&mut self, field: &'static str) -> Parsed<u32> {
        self.0.u32().map_err(|_| field)
    }

    /// An unsigned integer of at most 16 bits.
    ///
    /// # Errors
    /// The name of the field.
    pub fn u16(&mut self, field: &'static str) -> Parsed<u16> {
        self.0.u16().map_err(|_| field)
    }

    /// An unsigned integer of at most 8 bits.
    ///
    /// # Errors
    /// The name of the field.
    pub fn u8(&mut self, field: &'static str) -> Parsed<u8> {
        self.0.u8().map_err(|_| field)
    }

    /// A boolean.
    ///
    /// # Errors
    /// The name of the field.
    pub fn bool(&mut self, field: &'static str) -> Parsed<bool> {
        self.0.bool().map_err(|_| field)
    }

    /// A byte string of any length.
    ///
    /// # Errors
    /// The name of the field.
    pub fn bytes(&mut self, field: &'static str) -> Parsed<&'b [u8]> {
        self.0.bytes().map_err(|_| field)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// The name of the field.
    pub fn bytes_of<const N: usize>(&mut self, field: &'static str) -> Parsed<[u8; N]> {
        self.bytes(field)?.try_into().map_err(|_| field)
    }

    /// A text string.
    ///
    /// # Errors
    /// The name of the field.
    pub fn text(&mut self, field: &'static str) -> Parsed<&'b str> {
        self.0.str().map_err(|_| field)
    }

    /// `None` for null, else the value read by `read`.
    pub fn optional<T>(&mut self, field: &'static str, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<Option<T>> {
        match self.0.datatype() {
            Ok(minicbor::data::Type::Null) => {
                self.0.null().map_err(|_| field)?;
                Ok(None)
            }
            Ok(_) => read(self).map(Some),
            Err(_) => Err(field),
        }
    }

    /// Nothing may follow.
    pub fn end(&self, field: &'static str) -> Parsed<()> {
        if self.0.position() == self.0.input().len() { Ok(()) } else { Err(field) }
    }
}

/// `[ip: bytes(4 | 16), port]`.
pub fn put_address(writer: &mut Writer, address: &SocketAddr) {
    writer.put_array(2);
    match address.ip() {
        IpAddr::V4(ip) => writer.put_bytes(&ip.octets()),
        IpAddr::V6(ip) => writer.put_bytes(&ip.octets()),
    }
    writer.put_uint(address.port().into());
}

/// An address another machine can be reached at: no port 0, no unspecified or multicast address. Loopback is allowed:
/// test networks live there.
pub fn read_address(reader: &mut Reader<'_>) -> Parsed<SocketAddr> {
    const FIELD: &str = "address";
    reader.array(2, FIELD)?;
    let octets = reader.bytes(FIELD)?;
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        IpAddr::from(v4)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(octets).map_err(|_| FIELD)?)
    };
    let address = SocketAddr::new(ip, reader.u16(FIELD)?);
    if is_reachable(&address) { Ok(address) } else { Err(FIELD) }
}

/// Whether `address` can name a machine at all.
pub fn is_reachable(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// `[[epoch, key], …]`.
pub fn put_keys(writer: &mut Writer, keys: &[(Epoch, X25519Public)]) {
    writer.put_array(keys.len());
    for (epoch, key) in keys {
        writer.put_array(2);
        writer.put_uint(epoch.0);
        writer.put_bytes(key.as_bytes());
    }
}

/// Keys in strictly increasing epochs; every key a canonical X25519 point of full order.
pub fn read_keys(
    reader: &mut Reader<'_>,
    min: usize,
    max: usize,
    field: &'static str,
) -> Parsed<Vec<(Epoch, X25519Public)>> {
    let keys = reader.list(min, max, field, |reader| {
        reader.array(2, field)?;
        let epoch = Epoch(reader.u64(field)?);
        let key = reader.bytes_of::<32>(field)?;
        Ok((epoch, X25519Public::parse(key).map_err(|_| field)?))
    })?;
    if keys.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(field);
    }
    Ok(keys)
}

/// 32 bytes of an identity.
pub fn read_identity(reader: &mut Reader<'_>, field: &'static str) -> Parsed<Identity> {
    Ok(Identity::from_bytes(reader.bytes_of::<32>(field)?))
}

/// Code of a role in documents.
pub fn role_code(role: Role) -> u64 {
    match role {
        Role::Gateway => 0,
        Role::Mix => 1,
        Role::Store => 2,
    }
}

/// The role a code stands for.
pub fn read_role(reader: &mut Reader<'_>) -> Parsed<Role> {
    match reader.u8("role")? {
        0 => Ok(Role::Gateway),
        1 => Ok(Role::Mix),
        2 => Ok(Role::Store),
        _ => Err("role"),
    }
}

/// The layer's number, or null.
pub fn put_layer(writer: &mut Writer, layer: Option<Layer>) {
    match layer {
        Some(layer) => writer.put_uint(layer.number().into()),
        None => writer.put_null(),
    }
}

/// A layer, or null.
pub fn read_layer(reader: &mut Reader<'_>) -> Parsed<Option<Layer>> {
    reader.optional("layer", |reader| match reader.u8("layer")? {
        1 => Ok(Layer::L1),
        2 => Ok(Layer::L2),
        3 => Ok(Layer::L3),
        _ => Err("layer"),
    })
}

/// Whether `key` is strictly increasing along `items`: sorted and without duplicates.
pub fn strictly_sorted<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> bool {
    items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
}

/// Serialises 32 bytes as lower-case hex.
pub fn hex_32<S: serde::Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}
