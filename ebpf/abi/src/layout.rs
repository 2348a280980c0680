//! Declares rows so that their text is also known, and makes one number of all of it: two builds with the same number
//! understand each other's maps.

/// Declares `repr(C)` rows with their `aya::Pod` implementation, and a `LAYOUT` text of what was declared.
macro_rules! rows {
    ($($(#[$doc:meta])* pub struct $name:ident [$size:literal] { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            // Fields add up to the size: no implicit padding that the kernel would compare or leak.
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
            const _: () = assert!(0 $(+ core::mem::size_of::<$type>())* == $size);

            impl $name {
                /// Its declaration as text.
                pub const LAYOUT: &str = concat!(stringify!($name), ":", stringify!($size), "{", $(stringify!($field), ":", stringify!($type), ",",)* "}",);
            }

            #[cfg(feature = "user")]
            // SAFETY: repr(C), no implicit padding (asserted above), every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )*
        /// What was declared here, as text.
        pub(crate) const LAYOUT: &str = concat!($(stringify!($name), ":", stringify!($size), "{", $(stringify!($field), ":", stringify!($type), ",",)* "}",)*);
    };
}
pub(crate) use rows;

/// Raised by hand when rows keep their shape but change their meaning, and when a map changes its flags.
const MEANING: u64 = 2;
/// The same for rows of connection state, which outlive an ABI.
const STATE_MEANING: u64 = 1;

/// Number of this ABI; part of the path that maps are pinned under. FNV-1a of every layout, the map names and the
/// drop reasons.
pub const ABI_HASH: u64 = {
    let mut hash = fnv(0xcbf2_9ce4_8422_2325 ^ MEANING, crate::row::LAYOUT);
    hash = fnv(hash, crate::addr::LAYOUT);
    hash = fnv(hash, crate::event::LAYOUT);
    hash = fnv(hash, crate::names::map::LAYOUT);
    hash = fnv(hash, crate::names::program::LAYOUT);
    fnv(hash, crate::reason::LAYOUT)
};

/// Number of the layouts that a map of connection state is made of; part of its own pin, beside the ABI's folder: as long
/// as these rows stay as they are, the next ABI's programs go on with the same map.
pub(crate) const fn state_hash(key: &str, value: &str) -> u64 {
    let hash = fnv(0xcbf2_9ce4_8422_2325 ^ STATE_MEANING, crate::addr::LAYOUT);
    fnv(fnv(hash, key), value)
}

const fn fnv(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        hash ^= bytes[index] as u64;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
}
