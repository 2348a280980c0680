//! Priority and fairness: which requests wait for which, so that nobody's flood starves the others. The configuration
//! (FlowSchema and PriorityLevelConfiguration) is read here and a request is put into its flow; who of the waiting
//! comes next is `gate`'s to say. Pure: time is an argument, and waiting is done elsewhere.
//!
//! Semantics: <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>.

mod builtin;
mod deal;
mod gate;
mod schema;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use builtin::{is_mandatory, objects};
pub use gate::{Entry, Gate, Load, Refusal, Ticket};
use schema::Schema;

use crate::access::{Action, User};
use crate::walk::{number, text};

/// API group of both kinds.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Level of what is never made to wait.
pub(crate) const EXEMPT: &str = "exempt";
/// Schema and level of what no schema takes.
pub(crate) const CATCH_ALL: &str = "catch-all";

/// Objects that one seat is worth when many are read at once.
pub const OBJECTS_A_SEAT: usize = 100;
/// Seats of the widest request.
pub const WIDEST: u32 = 20;

/// Priority levels and flow schemas, as they apply.
#[derive(Debug, Clone, Default)]
pub struct Config {
    levels: Vec<Level>,
    /// In the order in which they are tried.
    schemas: Vec<Schema>,
}

/// A priority level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Level {
    name: String,
    uid: String,
    rule: Rule,
}

/// How many of a level's requests are carried out at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Exempt,
    Limited(Limited),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Limited {
    /// Of the server's seats, beside the other levels' shares.
    shares: u32,
    /// Of its own seats, in percent: how many others may use while they are free.
    lendable: u32,
    /// Of its own seats, in percent: how many of others' it may use.
    borrows: Option<u32>,
    /// `None`: what finds no seat is refused.
    queues: Option<Queues>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queues {
    count: usize,
    /// Queues among which a flow chooses the shortest.
    hand: usize,
    /// Requests that wait in one.
    length: usize,
}

/// The flow that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Name and uid of the schema that took it.
    pub schema: (String, String),
    /// Name and uid of its priority level.
    pub level: (String, String),
    /// Tells flows of a schema apart.
    pub hash: u64,
}

impl Config {
    /// From the objects as they are stored. What every cluster has is put in where it is missing, and a schema whose
    /// level does not exist takes nothing.
    pub fn read<'a>(
        schemas: impl IntoIterator<Item = &'a Value>,
        levels: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        let mut config = Self {
            levels: levels.into_iter().map(Level::read).collect(),
            schemas: schemas.into_iter().map(Schema::read).collect(),
        };
        let mandatory = objects().into_iter().filter(is_mandatory);
        for object in mandatory {
            let name = text(&object, &["metadata", "name"]);
            if text(&object, &["kind"]) == "FlowSchema" {
                if config.schemas.iter().all(|one| one.name != name) {
                    config.schemas.push(Schema::read(&object));
                }
            } else if config.levels.iter().all(|one| one.name != name) {
                config.levels.push(Level::read(&object));
            }
        }
        let Self { levels, schemas } = &mut config;
        schemas.retain(|schema| levels.iter().any(|level| level.name == schema.level));
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        config
    }

    /// The flow of a request.
    pub fn flow(&self, user: &User, action: &Action) -> Flow {
        let schema = self.schemas.iter().find(|one| one.takes(user, action));
        // The last schema takes whatever comes, but somebody whom no group knows.
        let name = schema.map_or(CATCH_ALL, |one| &one.level);
        let level = self.levels.iter().find(|level| level.name == name);
        Flow {
            schema: schema.map_or_else(
                || (CATCH_ALL.to_owned(), String::new()),
                |one| (one.name.clone(), one.uid.clone()),
            ),
            level: (
                name.to_owned(),
                level.map(|level| level.uid.clone()).unwrap_or_default(),
            ),
            hash: schema.map_or(0, |one| one.hash(user, action)),
        }
    }
}

impl Level {
    fn read(value: &Value) -> Self {
        let limited = &value["spec"]["limited"];
        let part = |field: &str, fallback: i64| {
            let number = number(limited, &[field]).unwrap_or(fallback);
            u32::try_from(number.clamp(0, 1_000_000)).unwrap_or(0)
        };
        let queuing = |field: &str, fallback: i64, most: i64| {
            let number = number(limited, &["limitResponse", "queuing", field]);
            usize::try_from(number.unwrap_or(fallback).clamp(1, most)).unwrap_or(1)
        };
        let waits = text(limited, &["limitResponse", "type"]) == "Queue";
        let count = queuing("queues", 64, MOST_QUEUES);
        let queues = waits.then(|| Queues {
            count,
            hand: queuing("handSize", 8, MOST_QUEUES).min(count),
            length: queuing("queueLengthLimit", 50, 1_000_000),
        });
        let rule = if text(value, &["spec", "type"]) == "Exempt" {
            Rule::Exempt
        } else {
            Rule::Limited(Limited {
                shares: part("nominalConcurrencyShares", 30),
                lendable: part("lendablePercent", 0).min(100),
                borrows: number(limited, &["borrowingLimitPercent"])
                    .map(|_| part("borrowingLimitPercent", 0)),
                queues,
            })
        };
        Self {
            name: text(value, &["metadata", "name"]).to_owned(),
            uid: text(value, &["metadata", "uid"]).to_owned(),
            rule,
        }
    }
}

/// Queues that a level may have.
pub(crate) const MOST_QUEUES: i64 = 4096;

/// Whether a hand of so many among so many queues can be dealt from one hash.
pub(crate) fn can_deal(queues: i64, hand: i64) -> bool {
    hand <= queues
        && (0..hand)
            .try_fold(1u64, |ways, dealt| {
                let ways = ways.checked_mul(u64::try_from(queues - dealt).ok()?)?;
                (ways <= 1 << 60).then_some(ways)
            })
            .is_some()
}

/// Seats that a request takes which reads so many objects at once.
pub fn width(objects: usize) -> u32 {
    u32::try_from(objects.div_ceil(OBJECTS_A_SEAT)).map_or(WIDEST, |seats| seats.clamp(1, WIDEST))
}
