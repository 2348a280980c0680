//! Large network states in pieces: each end of a session keeps room for the largest message that it ever encoded or read,
//! and a server has thousands of them.

use bytes::{Bytes, BytesMut};

use crate::v1::from_server::Message;

/// Largest piece, in bytes.
const PIECE: usize = 8 << 10;
/// Largest whole, in bytes.
const LARGEST: usize = 256 << 20;

/// `encoded` as messages, the last of which, `kind`, says what it is.
pub fn pieces(mut encoded: Bytes, kind: fn(Bytes) -> Message) -> impl Iterator<Item = Message> {
    let mut kind = Some(kind);
    std::iter::from_fn(move || {
        if encoded.len() > PIECE {
            return Some(Message::NetworkPiece(encoded.split_to(PIECE)));
        }
        kind.take().map(|kind| kind(std::mem::take(&mut encoded)))
    })
}

/// Pieces that came and wait for the rest.
#[derive(Debug, Default)]
pub struct Pieces(BytesMut);

/// More came than anybody has room for.
#[derive(Debug, thiserror::Error)]
#[error("a message in pieces is larger than {LARGEST} bytes")]
pub struct TooLarge;

impl Pieces {
    /// Takes in a piece that is not the last.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn take(&mut self, piece: &[u8]) -> Result<(), TooLarge> {
        if self.0.len() + piece.len() > LARGEST {
            return Err(TooLarge);
        }
        self.0.extend_from_slice(piece);
        Ok(())
    }

    /// The whole of which this is the rest.
    pub fn whole(&mut self, rest: Bytes) -> Bytes {
        if self.0.is_empty() {
            return rest;
        }
        let mut whole = std::mem::take(&mut self.0);
        whole.extend_from_slice(&rest);
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_is_what_went_into_pieces() {
        for length in [0, 1, PIECE, PIECE + 1, 3 * PIECE, 100_000] {
            let whole: Bytes = (0..length).map(|at| (at % 251) as u8).collect();
            let mut came = Pieces::default();
            let mut found = None;
            for message in pieces(whole.clone(), Message::NetworkDelta) {
                assert_eq!(found, None, "nothing after the rest");
                match message {
                    Message::NetworkPiece(piece) => came.take(&piece).unwrap(),
                    Message::NetworkDelta(rest) => {
                        assert!(rest.len() <= PIECE);
                        found = Some(came.whole(rest));
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(found, Some(whole), "{length} bytes");
        }
        let mut came = Pieces::default();
        let large = vec![0; LARGEST];
        came.take(&large).unwrap();
        assert!(came.take(&[0]).is_err());
    }
}
