//! Durable creates: through the API, into the bare store, and etcd's puts of the same, interleaved on one disk.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::task::JoinSet;
use waggle_store::{EmbeddedStore, Expect, Store, Write};

use crate::Arguments;
use crate::content::config;
use crate::figures::{quantile, spread};
use waggle_bench::server::{Client, Running, Server, free_port};

/// Milliseconds of each operation, and operations a second.
struct Measured {
    took: Vec<f64>,
    rate: f64,
}

/// One way to make a value durable.
enum Writer {
    Api(Client),
    Bare(Arc<EmbeddedStore>),
    Etcd(Box<etcd_client::Client>),
}

impl Writer {
    async fn create(&mut self, name: &str) -> Result<()> {
        let object = config("default", name);
        match self {
            Self::Api(client) => {
                let path = "/api/v1/namespaces/default/configmaps";
                client.ask("POST", path, &object).await
            }
            Self::Bare(store) => {
                let write = Write {
                    key: format!("/registry/configmaps/default/{name}"),
                    expect: Expect::Absent,
                    value: Some(Bytes::from(object.to_string())),
                };
                store.commit(vec![write]).await?;
                Ok(())
            }
            Self::Etcd(client) => {
                let key = format!("/registry/configmaps/default/{name}");
                client.put(key, object.to_string(), None).await?;
                Ok(())
            }
        }
    }
}

/// All of them create for `length`.
#[expect(clippy::cast_precision_loss, reason = "operations of a short run")]
async fn round(writers: Vec<Writer>, round: usize, length: Duration) -> Result<Measured> {
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for (number, mut writer) in writers.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut took = Vec::new();
            while start.elapsed() < length {
                let name = format!("r{round}-c{number}-{}", took.len());
                let begun = Instant::now();
                writer.create(&name).await?;
                took.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(took)
        });
    }
    let took: Result<Vec<Vec<f64>>> = tasks.join_all().await.into_iter().collect();
    let took: Vec<f64> = took?.into_iter().flatten().collect();
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Measured { took, rate })
}

/// An etcd of one member, and its address.
async fn etcd(server: &Server) -> Result<(Running, String)> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(free_port()?), url(free_port()?));
    let folder = server.folder.path();
    let mut command = Command::new("etcd");
    command.env_clear().args(["--name", "m", "--data-dir"]);
    command.arg(folder.join("etcd"));
    for (option, value) in [
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &format!("m={peer}")),
    ] {
        command.args([option, value]);
    }
    let running = Running::start(&mut command, &folder.join("etcd.log"))?;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let mut asked = etcd_client::Client::connect([&client], None).await?;
        match asked.get("/", None).await {
            Ok(_) => return Ok((running, client)),
            Err(error) if Instant::now() > until => return Err(error).context("ask etcd"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Measures and prints it.
pub(crate) async fn measure(server: Server, arguments: &Arguments) -> Result<()> {
    let length = Duration::from_secs(arguments.seconds);
    println!(
        "durable creates of ConfigMaps of 0.9 kB, {} rounds of {} s each, interleaved: median [lowest, highest] of the rounds",
        arguments.rounds, arguments.seconds
    );
    let (_etcd, url) = etcd(&server).await?;
    let bare = server.folder.path().join("bare.redb");
    let bare = Arc::new(EmbeddedStore::open(&bare)?);
    let mut number = 0;
    for &clients in &arguments.clients {
        let (mut api, mut store, mut puts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            number += 1;
            let mut writers = Vec::new();
            for _ in 0..clients {
                writers.push(Writer::Api(Client::connect(&server.door).await?));
            }
            api.push(round(writers, number, length).await?);
            let writers = (0..clients).map(|_| Writer::Bare(Arc::clone(&bare)));
            store.push(round(writers.collect(), number, length).await?);
            let mut writers = Vec::new();
            for _ in 0..clients {
                let client = etcd_client::Client::connect([&url], None).await?;
                writers.push(Writer::Etcd(Box::new(client)));
            }
            puts.push(round(writers, number, length).await?);
        }
        println!(" {clients} clients");
        report("waggle, through the API", &api, &puts);
        report("waggle, the store alone", &store, &puts);
        report("etcd, puts", &puts, &puts);
    }
    Ok(())
}

fn report(name: &str, rounds: &[Measured], peer: &[Measured]) {
    let rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
    let at = |share| -> Vec<f64> {
        let each = rounds.iter().map(|round| quantile(&round.took, share));
        each.collect()
    };
    let ratios = rounds.iter().zip(peer);
    let ratios: Vec<f64> = ratios.map(|(ours, peer)| ours.rate / peer.rate).collect();
    println!(
        "  {name:<26} {:>22}/s   {:>18} of etcd's   p50 {:>18} ms   p99 {:>20} ms",
        spread(&rates, 0),
        spread(&ratios, 2),
        spread(&at(0.5), 2),
        spread(&at(0.99), 2)
    );
}
