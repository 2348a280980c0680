//! A list as a body that is made piece by piece while it is sent, from the bytes that the objects were encoded to when
//! they were committed: however long it is, it takes the memory of one piece.

use std::convert::Infallible;
use std::iter::{Peekable, once};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde_json::json;
use waggle_api::{ListMeta, Resource};

use crate::objects::Object;

/// Bytes of a piece, about; a larger object is a piece of its own, as it is.
const PIECE: usize = 64 << 10;
const TAIL: &[u8] = b"]}\n";

/// A list on its way.
pub(super) struct Document {
    parts: Peekable<Box<dyn Iterator<Item = Bytes> + Send>>,
    /// Bytes that are still to come.
    left: usize,
}

impl Document {
    /// The list of these objects.
    pub(super) fn new(resource: &Resource, objects: Vec<Arc<Object>>, metadata: &ListMeta) -> Self {
        let head = json!({
            "kind": resource.list_kind(), "apiVersion": resource.api_version(), "metadata": metadata,
        });
        let mut head = head.to_string().into_bytes();
        head.pop();
        head.extend_from_slice(b",\"items\":[");
        let lengths = objects.iter().map(|object| object.bytes.len());
        let commas = objects.len().saturating_sub(1);
        let left = head.len() + lengths.sum::<usize>() + commas + TAIL.len();
        let items = objects.into_iter().enumerate().flat_map(|(index, object)| {
            let comma: &[u8] = if index == 0 { b"" } else { b"," };
            [Bytes::from_static(comma), object.bytes.clone()]
        });
        let parts = once(Bytes::from(head)).chain(items);
        let parts: Box<dyn Iterator<Item = Bytes> + Send> =
            Box::new(parts.chain(once(Bytes::from_static(TAIL))));
        Self {
            parts: parts.peekable(),
            left,
        }
    }

    /// The next piece; empty at the end.
    fn piece(&mut self) -> Bytes {
        let mut piece = Vec::with_capacity(PIECE.min(self.left));
        while let Some(part) = self.parts.next_if(|part| piece.len() + part.len() <= PIECE) {
            piece.extend_from_slice(&part);
        }
        if piece.is_empty() {
            return self.parts.next().unwrap_or_default();
        }
        Bytes::from(piece)
    }
}

impl Body for Document {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.piece();
        self.left = self.left.saturating_sub(piece.len());
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn a_list_is_whole_whatever_the_sizes_of_its_objects() {
        let resource = waggle_api::find("", "v1", "configmaps").unwrap();
        for sizes in [
            vec![],
            vec![1],
            vec![0, PIECE, 3, 2 * PIECE, 2 * PIECE, 7],
            vec![700; 1000],
        ] {
            let object = |(number, size): (usize, &usize)| {
                let value = json!({"metadata": {"name": format!("c{number}")}, "data": {"x": "x".repeat(*size)}});
                Arc::new(Object::new(resource, value, 5))
            };
            let objects: Vec<_> = sizes.iter().enumerate().map(object).collect();
            let mut document = Document::new(resource, objects.clone(), &ListMeta::default());
            let (mut text, said) = (Vec::new(), document.size_hint().exact());
            while let Some(frame) = document.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                assert!(piece.len() <= PIECE || objects.iter().any(|one| one.bytes == piece));
                text.extend_from_slice(&piece);
            }
            assert!(document.is_end_stream());
            assert_eq!(said, Some(text.len() as u64));
            let list: Value = serde_json::from_slice(&text).unwrap();
            let items: Vec<Value> = objects.iter().map(|one| one.value.clone()).collect();
            assert_eq!(
                (&list["kind"], &list["items"]),
                (&json!("ConfigMapList"), &json!(items))
            );
        }
    }
}
