//! Header blocks: names and values, compressed by one zlib stream for each direction of a connection, with the dictionary
//! that the protocol fixes.

use std::sync::LazyLock;

use bytes::{Buf as _, BufMut as _, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Names in lower case, with their values.
pub(super) type Headers = Vec<(String, String)>;

/// Bytes of a block once decompressed. A stream's headers take about a hundred.
const MOST: usize = 64 << 10;

/// Why a block can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadersError {
    /// The zlib stream is broken.
    #[error("a SPDY header block can't be decompressed: {0}")]
    Compression(String),
    /// It would take too much room.
    #[error("a SPDY header block has more than {MOST} bytes")]
    TooLarge,
    /// What was compressed is no list of headers.
    #[error("a SPDY header block is no list of names and values")]
    Malformed,
}

/// The dictionary of SPDY/3: words with their lengths, then text that belongs to none.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let words = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding \
        content-language content-length content-location content-md5 content-range content-type date etag expect \
        expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
        location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te \
        trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status";
    let more = [
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ];
    let rest = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
        403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
        Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
        chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
        text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut bytes = Vec::new();
    for word in words.split_whitespace().chain(more) {
        put(&mut bytes, word);
    }
    bytes.put_slice(rest.as_bytes());
    bytes
});

fn put(bytes: &mut Vec<u8>, text: &str) {
    // No word comes near 4 GiB.
    bytes.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    bytes.put_slice(text.as_bytes());
}

/// Reads the blocks of one direction, in their order.
#[derive(Debug)]
pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, HeadersError> {
        parse(self.decompress(block)?.into())
    }

    fn decompress(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeadersError> {
        let fault = |error: &dyn std::fmt::Display| HeadersError::Compression(error.to_string());
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(block, &mut chunk, FlushDecompress::Sync);
            // Neither can be more than the slices hold.
            let taken = usize::try_from(self.0.total_in() - taken).unwrap_or(block.len());
            let given = usize::try_from(self.0.total_out() - given).unwrap_or(chunk.len());
            block = &block[taken..];
            bytes.extend_from_slice(&chunk[..given]);
            if bytes.len() > MOST {
                return Err(HeadersError::TooLarge);
            }
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|error| fault(&error))?;
                }
                Err(error) => return Err(fault(&error)),
                Ok(_) if block.is_empty() && given < chunk.len() => return Ok(bytes),
                Ok(_) if taken == 0 && given == 0 => return Err(fault(&"it ended before")),
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut block: Bytes) -> Result<Headers, HeadersError> {
    let count = block.try_get_u32().map_err(|_| HeadersError::Malformed)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        headers.push((name, text(&mut block)?));
    }
    Ok(headers)
}

fn text(block: &mut Bytes) -> Result<String, HeadersError> {
    let length = block.try_get_u32().map_err(|_| HeadersError::Malformed)?;
    let length = usize::try_from(length).map_err(|_| HeadersError::Malformed)?;
    if length > block.len() {
        return Err(HeadersError::Malformed);
    }
    let bytes = block.split_to(length);
    String::from_utf8(bytes.into()).map_err(|_| HeadersError::Malformed)
}

/// Writes the blocks of one direction.
#[derive(Debug)]
pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        if let Err(error) = compress.set_dictionary(&DICTIONARY) {
            // Readers don't need the dictionary to be used.
            tracing::warn!(%error, "SPDY headers go without their dictionary");
        }
        Self(compress)
    }

    /// The next block, with these headers.
    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
        for (name, value) in headers {
            put(&mut plain, name);
            put(&mut plain, value);
        }
        let mut rest = plain.as_slice();
        let mut block = Vec::new();
        loop {
            block.reserve(rest.len() + 64);
            let before = self.0.total_in();
            let result = self.0.compress_vec(rest, &mut block, FlushCompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken..];
            if result.is_err() || (rest.is_empty() && block.len() < block.capacity()) {
                return block;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let mut compress = Compress::new(Compression::fast(), true);
        assert_eq!(compress.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
        assert_eq!(DICTIONARY.len(), 1423);
    }

    #[test]
    fn a_block_that_swells_is_refused() {
        let (mut reader, mut writer) = (Reader::new(), Writer::new());
        let block = writer.write(&vec![("bomb".into(), "0".repeat(MOST))]);
        assert!(block.len() < 4096, "{}", block.len());
        assert!(matches!(reader.read(&block), Err(HeadersError::TooLarge)));
    }

    #[test]
    fn lengths_beyond_the_block_are_refused() {
        for block in [
            &[0, 0, 0, 1][..],
            &[0, 0, 0, 1, 255, 255, 255, 255, 0],
            &[255, 255, 255, 255],
            &[0, 0],
            &[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0],
        ] {
            let parsed = parse(Bytes::copy_from_slice(block));
            assert!(matches!(parsed, Err(HeadersError::Malformed)), "{block:?}");
        }
    }

    proptest! {
        #[test]
        fn blocks_come_back_in_their_order(blocks in prop::collection::vec(prop::collection::vec(("[a-z-]{0,20}", ".{0,40}"), 0..6), 1..8)) {
            let (mut reader, mut writer) = (Reader::new(), Writer::new());
            for headers in blocks {
                let block = writer.write(&headers);
                prop_assert_eq!(reader.read(&block).unwrap(), headers);
            }
        }

        #[test]
        fn garbage_is_refused(mut block in prop::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
            if header {
                // A zlib header that asks for the dictionary.
                block.splice(0..0, [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
            }
            let mut reader = Reader::new();
            if let Ok(headers) = reader.read(&block) {
                prop_assert!(headers.len() <= MOST);
            }
        }
    }
}
