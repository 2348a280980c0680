//! Every key, value, event and drop reason that crosses the kernel boundary. no_std, repr(C).
