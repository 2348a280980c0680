//! What the programs share: maps, packet parsing, the tenant wall, policy, flows, translation and counting. A binary in
//! `bin/` is one hook; its entry functions only turn a [`Verdict`] into what the hook returns.
#![no_std]
#![feature(asm_experimental_arch)]

pub mod announce;
pub mod count;
pub mod direct;
pub mod drops;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod maps;
pub mod nat;
pub mod outside;
pub mod packet;
pub mod peer;
pub mod policy;
pub mod refuse;
pub mod rewrite;
pub mod service;
pub mod tunnel;
pub mod uplink;
pub mod wall;

use aya_ebpf::bindings::TC_ACT_SHOT;
use waggle_abi::Reason;

/// On to the next program and then to the host's stack.
pub const NEXT: i32 = -1;
/// Not on to anywhere.
pub const DROP: i32 = TC_ACT_SHOT as i32;

/// Let through, or why not.
pub type Verdict = Result<(), Reason>;

/// What every program object needs: its licence for the kernel, and a panic handler, which is never reached.
#[macro_export]
macro_rules! program {
    () => {
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}
