//! Addresses and blocks of them.

use std::net::IpAddr;

use cel::common::types::Type;
use cel::common::value::CowVal;
use cel::{Env, ExecutionError};

use super::super::functions::{CIDR, IP};
use super::{Declared, Function, Named, Own, STRING_TYPE, error, own, string, truth, whole, words};

static IP_TYPE: Type = Type::new_unspecified_type(IP);
static CIDR_TYPE: Type = Type::new_unspecified_type(CIDR);

impl Named for IpAddr {
    fn kind() -> &'static Type {
        &IP_TYPE
    }
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    address: IpAddr,
    length: u8,
}

impl Named for Block {
    fn kind() -> &'static Type {
        &CIDR_TYPE
    }
}

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address = address_of(address)?;
        let plain = length.bytes().all(|one| one.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        let length = length
            .parse()
            .ok()
            .filter(|one| plain && *one <= bits(address).1)?;
        Some(Self { address, length })
    }

    fn contains(self, address: IpAddr) -> bool {
        let ((own, width), (other, other_width)) = (bits(self.address), bits(address));
        width == other_width && own & self.mask() == other & self.mask()
    }

    /// Over 128 bits, those of the address the last ones.
    fn mask(self) -> u128 {
        let rest = u32::from(bits(self.address).1 - self.length);
        u128::MAX.checked_shl(rest).unwrap_or(0)
    }

    fn masked(self) -> Self {
        let address = match self.address {
            IpAddr::V4(one) => {
                let masked = u128::from(u32::from(one)) & self.mask();
                IpAddr::V4(u32::try_from(masked).unwrap_or_default().into())
            }
            IpAddr::V6(one) => IpAddr::V6((u128::from(one) & self.mask()).into()),
        };
        Self { address, ..self }
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(one) => (u32::from(one).into(), 32),
        IpAddr::V6(one) => (one.into(), 128),
    }
}

/// Addresses of IPv4 inside IPv6, and zones, are none.
fn address_of(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let mapped = matches!(address, IpAddr::V6(one) if one.to_ipv4_mapped().is_some());
    (!mapped).then_some(address)
}

pub(super) fn register(env: &mut Env) -> Declared {
    let text = || vec![STRING_TYPE];
    env.add_overload("ip", "string_to_ip", text(), |arguments| {
        let given = string(&arguments, 0)?;
        let made = needed_address(given)?;
        Ok(CowVal::owned(Own(made)))
    })?;
    env.add_overload("isIP", "is_ip", text(), |arguments| {
        truth(address_of(string(&arguments, 0)?).is_some())
    })?;
    env.add_overload("ip.isCanonical", "ip_is_canonical", text(), |arguments| {
        let given = string(&arguments, 0)?;
        let made = needed_address(given)?;
        truth(made.to_string() == given)
    })?;
    env.add_overload(
        "string",
        "ip_to_string",
        vec![IP_TYPE.to_owned()],
        |arguments| words(own::<IpAddr>(&arguments, 0)?.to_string()),
    )?;
    let questions: [(&str, Function); 6] = [
        ("family", |all| {
            whole(if own::<IpAddr>(&all, 0)?.is_ipv4() {
                4
            } else {
                6
            })
        }),
        ("isUnspecified", |all| {
            truth(own::<IpAddr>(&all, 0)?.is_unspecified())
        }),
        ("isLoopback", |all| {
            truth(own::<IpAddr>(&all, 0)?.is_loopback())
        }),
        ("isLinkLocalMulticast", |all| {
            truth(match own::<IpAddr>(&all, 0)? {
                IpAddr::V4(one) => one.octets()[..3] == [224, 0, 0],
                IpAddr::V6(one) => one.segments()[0] & 0xff0f == 0xff02,
            })
        }),
        ("isLinkLocalUnicast", |all| {
            truth(is_link_local(*own::<IpAddr>(&all, 0)?))
        }),
        ("isGlobalUnicast", |all| {
            let one = *own::<IpAddr>(&all, 0)?;
            let broadcast = matches!(one, IpAddr::V4(one) if one.is_broadcast());
            let other = one.is_unspecified() || one.is_loopback() || one.is_multicast();
            truth(!broadcast && !other && !is_link_local(one))
        }),
    ];
    for (name, function) in questions {
        env.add_member_overload(name, name, IP_TYPE.to_owned(), vec![], function)?;
    }
    register_blocks(env)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(one) => one.is_link_local(),
        IpAddr::V6(one) => one.is_unicast_link_local(),
    }
}

fn register_blocks(env: &mut Env) -> Declared {
    let block = || CIDR_TYPE.to_owned();
    env.add_overload("cidr", "string_to_cidr", vec![STRING_TYPE], |arguments| {
        let given = string(&arguments, 0)?;
        let made = needed_block(given)?;
        Ok(CowVal::owned(Own(made)))
    })?;
    env.add_overload("isCIDR", "is_cidr", vec![STRING_TYPE], |arguments| {
        truth(Block::parse(string(&arguments, 0)?).is_some())
    })?;
    env.add_overload("string", "cidr_to_string", vec![block()], |arguments| {
        let one = own::<Block>(&arguments, 0)?;
        words(format!("{}/{}", one.address, one.length))
    })?;
    let contains_ip: Function = |all| truth(own::<Block>(&all, 0)?.contains(given_ip(&all)?));
    env.add_member_overload(
        "containsIP",
        "cidr_contains_ip",
        block(),
        vec![IP_TYPE.to_owned()],
        contains_ip,
    )?;
    env.add_member_overload(
        "containsIP",
        "cidr_contains_text",
        block(),
        vec![STRING_TYPE],
        contains_ip,
    )?;
    let contains_block: Function = |all| {
        let own = *own::<Block>(&all, 0)?;
        let other = given_block(&all)?;
        truth(own.contains(other.address) && own.length <= other.length)
    };
    env.add_member_overload(
        "containsCIDR",
        "cidr_contains_cidr",
        block(),
        vec![block()],
        contains_block,
    )?;
    env.add_member_overload(
        "containsCIDR",
        "cidr_contains_cidr_text",
        block(),
        vec![STRING_TYPE],
        contains_block,
    )?;
    env.add_member_overload("ip", "cidr_ip", block(), vec![], |all| {
        Ok(CowVal::owned(Own(own::<Block>(&all, 0)?.address)))
    })?;
    env.add_member_overload("masked", "cidr_masked", block(), vec![], |all| {
        Ok(CowVal::owned(Own(own::<Block>(&all, 0)?.masked())))
    })?;
    env.add_member_overload(
        "prefixLength",
        "cidr_prefix_length",
        block(),
        vec![],
        |all| whole(own::<Block>(&all, 0)?.length.into()),
    )
}

fn needed_address(given: &str) -> Result<IpAddr, ExecutionError> {
    let why = || {
        error(format!(
            "IP Address {given:?} parse error during conversion from string"
        ))
    };
    address_of(given).ok_or_else(why)
}

fn needed_block(given: &str) -> Result<Block, ExecutionError> {
    let why = || {
        error(format!(
            "network address parse error during conversion from string: {given:?}"
        ))
    };
    Block::parse(given).ok_or_else(why)
}

fn given_ip(all: &[CowVal<'_, '_>]) -> Result<IpAddr, ExecutionError> {
    if let Ok(one) = own::<IpAddr>(all, 1) {
        return Ok(*one);
    }
    let given = string(all, 1)?;
    needed_address(given)
}

fn given_block(all: &[CowVal<'_, '_>]) -> Result<Block, ExecutionError> {
    if let Ok(one) = own::<Block>(all, 1) {
        return Ok(*one);
    }
    let given = string(all, 1)?;
    needed_block(given)
}
