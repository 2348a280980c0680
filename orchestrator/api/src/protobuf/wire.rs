//! The protobuf wire format: fields of a message one after another, nothing copied, nothing trusted.

use prost::encoding::{WireType, decode_key, decode_varint};

/// A varint as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scalar(pub(super) u64);

impl Scalar {
    /// As the signed number that it stands for.
    pub(super) fn signed(self) -> i64 {
        i64::from_ne_bytes(self.0.to_ne_bytes())
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Item<'a> {
    /// A varint.
    Number(Scalar),
    /// Eight bytes.
    Double(f64),
    /// A text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes; nothing in Kubernetes' messages is.
    Other,
}

/// Fields of a message by number, in order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn read(&mut self) -> Result<(u32, Item<'a>), &'static str> {
        let (number, wire) = decode_key(&mut self.rest).map_err(|_| "a field has no key")?;
        let item = match wire {
            WireType::Varint => Item::Number(Scalar(varint(&mut self.rest)?)),
            WireType::SixtyFourBit => {
                let bytes = self.take(8)?.try_into().map_err(|_| BREAKS_OFF)?;
                Item::Double(f64::from_le_bytes(bytes))
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(|_| BREAKS_OFF)?;
                Item::Bytes(self.take(length)?)
            }
            WireType::ThirtyTwoBit => {
                self.take(4)?;
                Item::Other
            }
            WireType::StartGroup | WireType::EndGroup => return Err("it holds a group"),
        };
        Ok((number, item))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(BREAKS_OFF)?;
        self.rest = rest;
        Ok(taken)
    }
}

const BREAKS_OFF: &str = "it breaks off in a field";

fn varint(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    decode_varint(bytes).map_err(|_| "a number is malformed")
}

/// Numbers packed into one field.
pub(super) fn packed(mut bytes: &[u8]) -> Result<Vec<i64>, &'static str> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        numbers.push(Scalar(varint(&mut bytes)?).signed());
    }
    Ok(numbers)
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Item<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}
