//! Who of several servers leads: whoever made the election's key, for as long as its lease is renewed. The revision at
//! which the key was made is the fence: every commit of the leader demands it.

use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, Error as Fault, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::{oneshot, watch};

use super::members::{self, Members};
use super::{EtcdStore, Role, head};
use crate::Error;

/// The election's key. It starts as ours do, so that every watch sees who comes and goes.
pub(super) const KEY: &str = "/waggle-leader";
/// How long a leader that is not heard of stays leader, in seconds.
const LEASE_SECONDS: i64 = 8;
/// How often it renews that.
const RENEW: Duration = Duration::from_secs(1);
/// Without renewal for this long it no longer counts on leading. Less than the lease: clocks run differently.
const DOUBT: Duration = Duration::from_secs(6);

/// What standing for election came to.
#[derive(Debug)]
pub enum Bid {
    /// This process leads.
    Won(Term),
    /// Somebody else does; what they said of themselves.
    Lost(String),
}

/// The time for which this process leads.
#[derive(Debug)]
pub struct Term {
    store: EtcdStore,
    pub(super) lease: i64,
    over: watch::Receiver<bool>,
    /// Dropped, its lease is no longer renewed.
    keeper: Option<oneshot::Sender<()>>,
}

impl EtcdStore {
    /// Stands for election once, saying `said` (an address) to those who lose. From the first call on this store takes
    /// commits only while it leads.
    ///
    /// # Errors
    /// [`Error::Medium`] when no member answers; nobody can be elected then.
    pub async fn stand(&self, said: &str) -> Result<Bid, Error> {
        if self.role() == Role::Alone {
            self.set_role(Role::Follower);
        }
        if let Some(leader) = self.leader().await? {
            return Ok(Bid::Lost(leader));
        }
        let grant =
            |member: Client| async move { member.lease_client().grant(LEASE_SECONDS, None).await };
        let since = Instant::now();
        let lease = self
            .answered(self.members.read("lease", grant).await?)?
            .id();
        let put = Txn::new()
            .when([Compare::create_revision(KEY, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(
                KEY,
                said,
                Some(PutOptions::new().with_lease(lease)),
            )])
            .or_else([TxnOp::get(KEY, Some(GetOptions::new()))]);
        let ask = |member: Client| {
            let put = put.clone();
            async move { members::kv(&member).txn(put).await }
        };
        let answer = self.answered(self.members.read("election", ask).await?)?;
        let created = if answer.succeeded() {
            i64::try_from(head(answer.header()).0).unwrap_or(i64::MAX)
        } else {
            let row = match answer.op_responses().first() {
                Some(TxnOpResponse::Get(found)) => found.kvs().first().cloned(),
                _ => None,
            };
            match row {
                // Ours, from an attempt whose answer was lost.
                Some(row) if row.lease() == lease => row.create_revision(),
                row => {
                    self.revoke(lease).await;
                    let leader = row.map(|row| String::from_utf8_lossy(row.value()).into_owned());
                    return Ok(Bid::Lost(leader.unwrap_or_default()));
                }
            }
        };
        self.set_role(Role::Leader(created));
        let (over, ended) = watch::channel(false);
        let keeper = match self.keep_leading(lease, since, over) {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                self.set_role(Role::Follower);
                self.revoke(lease).await;
                return Err(members::broken(
                    "election",
                    &self.members.urls,
                    &error.to_string(),
                ));
            }
        };
        Ok(Bid::Won(Term {
            store: self.clone(),
            lease,
            over: ended,
            keeper,
        }))
    }

    /// Renews a lease until what it answers is dropped, on a thread and connections of its own: a server without a moment to
    /// spare leads on.
    fn keep_leading(
        &self,
        lease: i64,
        since: Instant,
        over: watch::Sender<bool>,
    ) -> std::io::Result<oneshot::Sender<()>> {
        let (keeper, dropped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let store = self.clone();
        let keep = async move {
            tokio::select! {
                biased;
                _ = dropped => {}
                () = keep(&store, lease, since) => {
                    store.set_role(Role::Follower);
                    over.send_replace(true);
                }
            }
        };
        std::thread::Builder::new()
            .name("election".into())
            .spawn(move || runtime.block_on(keep))?;
        Ok(keeper)
    }

    /// What the leader says of itself, if there is one.
    ///
    /// # Errors
    /// [`Error::Medium`] when no member answers.
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        let answer = self
            .fetch("election", KEY.as_bytes(), GetOptions::new(), 0)
            .await?;
        let row = answer.kvs().first();
        Ok(row.map(|row| String::from_utf8_lossy(row.value()).into_owned()))
    }

    fn answered<T>(&self, answer: Result<T, Fault>) -> Result<T, Error> {
        answer.map_err(|fault| self.members.error("election", &fault))
    }

    pub(super) async fn revoke(&self, lease: i64) {
        let ask = |member: Client| async move { member.lease_client().revoke(lease).await };
        let revoked = self.members.read("revoke", ask);
        let _ = tokio::time::timeout(RENEW, revoked).await;
    }
}

impl Term {
    /// Returns when this process no longer leads.
    pub async fn over(&self) {
        let mut over = self.over.clone();
        let _ = over.wait_for(|over| *over).await;
    }

    /// Steps down, so that another can be elected at once.
    pub async fn resign(mut self) {
        self.keeper = None;
        self.store.set_role(Role::Follower);
        self.store.revoke(self.lease).await;
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.store.set_role(Role::Follower);
    }
}

/// Renews the lease until that fails for too long.
async fn keep(store: &EtcdStore, lease: i64, mut since: Instant) {
    let members = match Members::open(&store.options).await {
        Ok(members) => members,
        Err(error) => return tracing::error!(%error, "the leader's lease can't be renewed"),
    };
    let mut at = since;
    loop {
        let (member, turn) = members.current();
        let renew = async { member.lease_client().keep_alive(lease).await };
        match tokio::time::timeout(RENEW, renew).await {
            Ok(Ok(_)) => {
                since = at;
                tokio::time::sleep(RENEW).await;
            }
            Ok(Err(Fault::LeaseKeepAliveError(_))) => return,
            Ok(Err(fault)) => {
                tracing::warn!(%fault, "the leader's lease was not renewed");
                members.pass(turn);
                tokio::time::sleep(RENEW / 10).await;
            }
            Err(_) => members.pass(turn),
        }
        at = Instant::now();
        if since.elapsed() > DOUBT {
            return;
        }
    }
}
