//! The connection to the supervisor: started when absent, connected anew when it went away, and what it reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::RwLock;
use waggle_runtime::client::Revival;
use waggle_runtime::spec::{ContainerState, Sandbox};
use waggle_runtime::supervisor::{SupervisorOptions, ensure_running};
use waggle_runtime::{Client, RuntimeError};

/// Between two attempts to reach a supervisor that can't be started.
const RETRY: Duration = Duration::from_secs(1);

/// What the supervisor reports.
#[derive(Debug)]
pub(crate) enum Report {
    /// All that there is, after each new connection.
    All(Vec<Sandbox>, Vec<ContainerState>),
    /// One container changed.
    Changed(Box<ContainerState>),
}

/// The supervisor of this node.
#[derive(Debug)]
pub(crate) struct Containers {
    options: SupervisorOptions,
    client: RwLock<Client>,
}

impl Containers {
    /// Starts the supervisor when none answers, and connects.
    pub(crate) async fn open(
        data: PathBuf,
        cgroup: &str,
        program: Option<PathBuf>,
    ) -> Result<Arc<Self>, RuntimeError> {
        let options = SupervisorOptions {
            data,
            cgroup: cgroup.to_owned(),
            program,
        };
        let client = connect(&options).await?;
        let info = client.ping().await?;
        tracing::info!(pid = info.pid, version = info.version, "supervisor answers");
        upgrade(&options, &client, info.pid).await;
        Ok(Arc::new(Self {
            options,
            client: RwLock::new(client),
        }))
    }

    /// The client of the moment. Calls on it end with an error when the supervisor goes away; callers try again later.
    pub(crate) async fn client(&self) -> Client {
        self.client.read().await.clone()
    }

    /// Reports for as long as it runs; keeps the connection.
    pub(crate) async fn follow(&self, report: impl Fn(Report)) {
        loop {
            match self.follow_once(&report).await {
                Ok(()) => tracing::warn!("the supervisor closed its connection"),
                Err(error) => {
                    tracing::warn!(%error, "the supervisor can't be followed");
                    tokio::time::sleep(RETRY).await;
                }
            }
            match connect(&self.options).await {
                Ok(client) => *self.client.write().await = client,
                Err(error) => {
                    tracing::error!(%error, "the supervisor can't be started");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// The supervisor brings this agent back when it dies, unless a service manager does.
    async fn ask_for_revival(&self, client: &Client) {
        if is_main_process_of_a_service() {
            return;
        }
        let log = self.options.data.join("agent.log");
        let asked = match Revival::of_this_process(&log) {
            Ok(revival) => client.revive(revival).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = asked {
            tracing::warn!(error, "nobody would start this agent again if it died");
        }
    }

    /// This agent ends because it was asked to.
    pub(crate) async fn take_leave(&self) {
        if let Err(error) = self.client().await.take_leave().await {
            tracing::warn!(%error, "the supervisor can't be told that this agent ends");
        }
    }

    async fn follow_once(&self, report: &impl Fn(Report)) -> Result<(), RuntimeError> {
        let client = self.client().await;
        self.ask_for_revival(&client).await;
        let mut events = client.events().await?;
        let (sandboxes, containers) = client.list().await?;
        report(Report::All(sandboxes, containers));
        while let Some(state) = events.next().await {
            report(Report::Changed(Box::new(state)));
        }
        Ok(())
    }
}

/// A supervisor of another program than ours becomes ours, under its containers. One that can't goes on as it is.
async fn upgrade(options: &SupervisorOptions, client: &Client, pid: u32) {
    let outcome = match options.is_program_of(pid) {
        Ok(true) => return,
        Ok(false) => client
            .upgrade(options.program())
            .await
            .map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(()) => tracing::info!(pid, "the supervisor runs this agent's program now"),
        Err(error) => tracing::warn!(pid, error, "the supervisor goes on with another program"),
    }
}

/// systemd says so in the environment; it has a restart policy of its own (`Restart=always`).
fn is_main_process_of_a_service() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string())
}

async fn connect(options: &SupervisorOptions) -> Result<Client, RuntimeError> {
    let owned = options.clone();
    let started = tokio::task::spawn_blocking(move || ensure_running(&owned)).await;
    started.map_err(|error| RuntimeError::NotStarted {
        data: options.data.clone(),
        reason: error.to_string(),
    })??;
    Client::connect(options.socket()).await
}
