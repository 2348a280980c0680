//! Invariants that every plan keeps, checked independently of the planners.
