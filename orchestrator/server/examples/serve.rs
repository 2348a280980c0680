//! A server by itself, for trying clients against it: `serve DATA LISTEN NODE_LISTEN`. Ends when its input does.

use std::io::Read as _;

use waggle_server::{ServerOptions, run};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [data, listen, node_listen] = words.as_slice() else {
        return Err("usage: serve DATA ADDRESS:PORT ADDRESS:PORT".into());
    };
    let options = ServerOptions::new(
        data.into(),
        vec![listen.parse()?],
        vec![node_listen.parse()?],
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let end = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        end.cancel();
    });
    run(options, stop).await?;
    Ok(())
}
