//! How much of each resource a pod asks for and a node has.
