//! Messages as prost writes them, by buffers that are as large as what is said: a server has thousands of sessions, nearly all of
//! which are silent.

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a buffer begins with, in bytes: a heartbeat.
const FIRST: usize = 256;
/// Bytes that are written together at least, when there are as many: a piece.
const TOGETHER: usize = 8 << 10;

/// Encodes `T`, decodes `U`.
#[derive(Debug, Clone)]
pub(crate) struct Sparing<T, U>(std::marker::PhantomData<(T, U)>);

impl<T, U> Default for Sparing<T, U> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T, U> Codec for Sparing<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(FIRST, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(FIRST, TOGETHER))
    }
}
