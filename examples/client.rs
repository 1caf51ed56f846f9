//! A client: `COORDINATOR_URL=... IRIS_API_KEY=... cargo run -p iris-examples --bin client`.
//!
//! Asks the first model of the network the question given as argument, and prints the answer as
//! it is written. The `coordinator` example prints the command with its address and a key.

use std::error::Error;
use std::io::Write;

use futures::StreamExt;
use iris_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("COORDINATOR_URL");
    let url = url.unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    let key = std::env::var("IRIS_API_KEY")
        .map_err(|_| "set IRIS_API_KEY to an API key of the scope `inference`")?;
    let question = std::env::args().nth(1);
    let question = question.unwrap_or_else(|| "What does a coordinator do?".to_owned());

    let client = Client::builder(url).with_api_key(key).build()?;
    let models = client.models().await?;
    let model = models.first().ok_or("no node offers a model yet")?;
    let mut answer = client.ask(&model.id, question).stream().await?;
    while let Some(chunk) = answer.next().await {
        print!("{}", chunk?.text());
        std::io::stdout().flush()?;
    }
    println!();
    if let Some(node) = answer.head().node {
        println!("({} on node {node})", model.id);
    }
    Ok(())
}
