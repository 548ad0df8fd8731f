//! The first start: a page that makes a profile out of a network file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use shoal_protocol::network::NetworkFile;
use tokio::sync::oneshot;

use super::calls::json_body;
use super::house::House;
use super::refusal::Refusal;
use crate::io::failure::{Exit, Failure};
use crate::io::network_file::{parse, usable};
use crate::io::system_rng;
use crate::mail::{Mail, RateClass};
use crate::traffic::monthly_bytes;

/// A network file of 64 authorities is about 180 kB; escaped it is not twice as long.
const BODY_MAX: usize = 2 << 20;

/// A profile that is yet to be made.
pub(super) struct Setup {
    dir: PathBuf,
    made: Mutex<Option<oneshot::Sender<Mail>>>,
}

impl Setup {
    pub(super) fn new(dir: &Path, made: oneshot::Sender<Mail>) -> Self {
        Self { dir: dir.to_owned(), made: Mutex::new(Some(made)) }
    }

    fn create(&self, file: &NetworkFile, class: RateClass) -> Result<String, Failure> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = made.take() else { return Err(no_setup()) };
        let mail = match Mail::create(&self.dir, file, class, &mut system_rng()) {
            Ok(mail) => mail,
            Err(error) => {
                // it can be tried again
                *made = Some(waiting);
                return Err(error.into());
            }
        };
        let address = mail.address();
        // nobody waits any more: the process is stopping, and the profile is there for the next one
        drop(waiting.send(mail));
        Ok(address)
    }
}

fn no_setup() -> Failure {
    Failure::new(Exit::Temporary, "profile_exists", "there is a profile already", "load the page anew")
}

/// Whether there is a profile to be made.
pub(super) async fn needed(State(house): State<Arc<House>>) -> Json<Value> {
    let setup = house.setup();
    Json(json!({ "needed": setup.is_some(), "profile": setup.map(|setup| setup.dir.clone()) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Look {
    file: String,
}

/// What a network file says, before anything is made of it.
pub(super) async fn look(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Look { file } = json_body(&headers, body, BODY_MAX).await?;
    house.setup().ok_or_else(no_setup)?;
    let file = parse(&file)?;
    usable(&file)?;
    let monthly = |class| monthly_bytes(class, &file.parameters);
    Ok(Json(json!({
        "network": file.name,
        "fingerprint": file.fingerprint_words(),
        "monthly_bytes": { "normal": monthly(RateClass::Normal), "low": monthly(RateClass::Low) },
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Make {
    file: String,
    class: RateClass,
}

/// Makes the profile; the daemon starts by itself.
pub(super) async fn make(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Make { file, class } = json_body(&headers, body, BODY_MAX).await?;
    let setup = house.setup().ok_or_else(no_setup)?;
    let file = parse(&file)?;
    usable(&file)?;
    let made = tokio::task::spawn_blocking(move || setup.create(&file, class)).await;
    let address = made.map_err(|error| Failure::new(Exit::Io, "setup", error.to_string(), "use shoal init"))??;
    Ok(Json(json!({ "address": address })))
}
