//! A bot: accepts whoever writes, and sends back what they wrote.
//!
//! ```sh
//! cargo run --example echo -- PROFILE
//! ```
//!
//! It shows how a program keeps its place: an answer is queued before the cursor moves on, so that after a crash nobody is
//! left without one. Somebody may then get it twice; a bot for whom that matters remembers the ids that it has answered.

use shoal_client::io::Client;
use shoal_client::mail::{Event, Mail, MailError};
use std::error::Error;
use std::path::Path;

/// Messages looked at in one go.
const BATCH: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile] = arguments.as_slice() else { return Err("usage: echo PROFILE".into()) };
    let mail = Mail::open(Path::new(profile))?;
    println!("{}", mail.address());
    let client = Client::start(mail)?;
    let mut events = client.events();
    loop {
        let answered = client
            .mail(|desk| {
                let new = desk.mail.messages(desk.mail.read_cursor()?, BATCH)?;
                for message in &new {
                    // writing to somebody accepts them
                    let to = message.conversation.to_string();
                    desk.mail.send(&to, &message.text, desk.now, desk.rng)?;
                    desk.mail.set_read_cursor(message.cursor)?;
                }
                Ok::<_, MailError>(new.len())
            })
            .await??;
        if answered == BATCH {
            continue;
        }
        tokio::select! {
            event = async {
                loop {
                    // a listener that was too slow has missed some: look anyway
                    match events.recv().await {
                        Ok(Event::Received(_)) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
            } => event,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    client.stop().await;
    Ok(())
}
