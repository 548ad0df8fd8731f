//! Watches a daemon that runs: its state, then whatever happens, one JSON object a line.
//!
//! ```sh
//! cargo run --example watch -- PROFILE
//! ```
//!
//! Any number of programs may do so at a time, beside `shoal`, the terminal and the browser.

use serde_json::Value;
use shoal_client::io::{Call, Caller};
use std::error::Error;
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile] = arguments.as_slice() else { return Err("usage: watch PROFILE".into()) };
    let mut caller = Caller::connect(Path::new(profile))?;
    let _: Value = caller.call(Call::Subscribe).await?;
    let status: Value = caller.call(Call::Status).await?;
    println!("{status}");
    loop {
        println!("{}", serde_json::to_string(&caller.event().await?)?);
    }
}
