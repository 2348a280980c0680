//! Loads, attaches, pins and feeds the eBPF programs (aya); links, addresses and routes (rtnetlink).
