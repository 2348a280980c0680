//! What the store answers, as what a client of the API reads.

use waggle_api::Status;
use waggle_store::Error;

/// A refusal that is not about the object's own revision (that one is the writer's to word).
pub(super) fn refused(error: Error) -> Status {
    match error {
        Error::Full { .. } => Status::storage_full(error),
        Error::Compacted { asked, oldest } => Status::too_old(asked.0, oldest.0),
        Error::Future { asked, current } => Status::timeout(format!(
            "Too large resource version: {}, current: {}",
            asked.0, current.0
        )),
        Error::TooLarge { .. } => Status::failure(413, "RequestEntityTooLarge", error.to_string()),
        Error::NotLeading => Status::unavailable(error.to_string()),
        other => Status::internal(other),
    }
}
