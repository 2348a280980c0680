//! Local volumes of a node: which of them are to go, and that they are gone.

use waggle_plan::storage::{DATA, to_remove};
use waggle_plan::{ObjectRef, Write};
use waggle_wire::v1;

use super::Inner;

/// Takes note of what `node` has removed, and says what it is to remove.
pub(super) async fn orders(inner: &Inner, node: &str, removed: &[String]) -> v1::VolumesReply {
    let (gone, remove) = inner.view.read(|snapshot| {
        let ordered: Vec<String> = to_remove(snapshot, node).map(str::to_owned).collect();
        let (gone, remove): (Vec<String>, Vec<String>) =
            ordered.into_iter().partition(|name| removed.contains(name));
        let gone: Vec<ObjectRef> = gone
            .iter()
            .filter_map(|name| snapshot.named("v1", "PersistentVolume", "", name))
            .map(|meta| meta.object())
            .collect();
        (gone, remove)
    });
    let writes: Vec<Write> = gone
        .into_iter()
        .map(|object| Write::RemoveFinalizer {
            object,
            finalizer: DATA.to_owned(),
        })
        .collect();
    for result in inner.objects.apply_plan(writes).await {
        if let Err(error) = result {
            tracing::warn!(node, %error, "a volume that is gone stays on the list");
        }
    }
    v1::VolumesReply { remove }
}
