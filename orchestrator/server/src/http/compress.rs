//! Large answers are sent compressed to whoever takes them so, piece by piece: the compressed answer is never whole in
//! memory either. Watches and other streams never are: what is in them must not wait.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body as _, Frame};

/// Smallest answer that is compressed, in bytes; Kubernetes' own bound.
const LARGE: u64 = 128 << 10;
/// Bytes that are compressed at once; then others have their turn.
const BITE: usize = 64 << 10;
/// Compressed bytes of a piece, about.
const PIECE: usize = 16 << 10;

/// Compresses the answer to a request, if that is worth while.
pub(super) async fn compress(request: Request, next: Next) -> Response {
    let wanted = takes_gzip(request.headers());
    let response = next.run(request).await;
    // Only a body whose end is known says its length.
    let large = response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|length| length >= LARGE);
    if !wanted || !large || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts
        .headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts
        .headers
        .append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::new(Packed::new(body)))
}

/// A body on its way through the compressor.
struct Packed {
    plain: Body,
    /// What was taken from `plain` and not compressed yet.
    taken: Bytes,
    /// `None` once all is in it and its end was given out.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// It has worked; others have their turn before it goes on.
    rests: bool,
}

impl Packed {
    fn new(plain: Body) -> Self {
        Self {
            plain,
            taken: Bytes::new(),
            encoder: Some(GzEncoder::new(Vec::new(), Compression::new(4))),
            rests: false,
        }
    }

    /// Compresses a bite of what was taken; a piece when there is enough for one.
    fn work(&mut self) -> std::io::Result<Option<Bytes>> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(None);
        };
        let bite = self.taken.split_to(self.taken.len().min(BITE));
        encoder.write_all(&bite)?;
        self.rests = true;
        let piece = encoder.get_mut();
        Ok((piece.len() >= PIECE).then(|| Bytes::from(std::mem::take(piece))))
    }
}

impl hyper::body::Body for Packed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if std::mem::take(&mut self.rests) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.taken.is_empty() {
                match self.work() {
                    Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                    Ok(None) => continue,
                    Err(error) => return Poll::Ready(Some(Err(axum::Error::new(error)))),
                }
            }
            match std::task::ready!(Pin::new(&mut self.plain).poll_frame(context)) {
                Some(Ok(frame)) => self.taken = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let end = self.encoder.take().map(GzEncoder::finish);
                    let end = end.map(|end| end.map(|piece| Frame::data(Bytes::from(piece))));
                    return Poll::Ready(end.map(|end| end.map_err(axum::Error::new)));
                }
            }
        }
    }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut words = coding.split(';').map(str::trim);
        let named = words.next() == Some("gzip");
        named && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_gzip_says_so() {
        for (given, expect) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("br", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(given));
            assert_eq!(takes_gzip(&headers), expect, "{given}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
