//! The client of a Confluent-compatible schema registry.

use std::error::Error as _;
use std::time::Duration;

use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, perform_sr_call, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{
    RawError, SchemaType, SrCall, SuppliedSchema,
};
use url::Url;

use super::{CodecError, Own};

/// One question, connection included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Records of any age must stay readable by every later program.
const COMPATIBILITY: &str = "BACKWARD_TRANSITIVE";

#[derive(Debug)]
pub(super) struct Client {
    settings: SrSettings,
    /// For what the crate has no call for.
    http: reqwest::Client,
    /// Without user and slash at the end.
    base: String,
    user: Option<(String, Option<String>)>,
}

/// What the registry's error means for us.
enum Answer {
    /// It has no such thing.
    Unknown,
    /// It will not have it.
    Refused(String),
    /// It could not say.
    Unavailable(String),
}

impl Client {
    pub(super) fn new(url: &Url) -> Result<Self, CodecError> {
        let refused = |error: String| CodecError::RegistryUnavailable { reason: error };
        let mut bare = url.clone();
        // Errors repeat the URL, so the password must not be in it.
        let user = (!url.username().is_empty())
            .then(|| (url.username().to_owned(), url.password().map(str::to_owned)));
        if user.is_some() && (bare.set_username("").is_err() || bare.set_password(None).is_err()) {
            return Err(refused("its URL cannot hold a user".to_owned()));
        }
        let base = bare.as_str().trim_end_matches('/').to_owned();
        let mut settings = SrSettings::new_builder(base.clone());
        settings.set_timeout(TIMEOUT);
        if let Some((name, password)) = &user {
            settings.set_basic_authorization(name, password.as_deref());
        }
        let settings = settings.build().map_err(|error| refused(error.error))?;
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            settings,
            http,
            base,
            user,
        })
    }

    /// The id of one of our schemas, registered where it is missing and may be.
    pub(super) async fn id(&self, own: &Own, register: bool) -> Result<i32, CodecError> {
        let subject = own.subject;
        let refused = |reason: String| CodecError::Refused { subject, reason };
        if let Some(id) = self.look_up(own).await? {
            return Ok(id);
        }
        if !register {
            let reason =
                "it is not there, and schema_registry.register is false: register it first";
            return Err(refused(reason.to_owned()));
        }
        // Before, so that the new version is checked by it; some registries know a subject only once it has a version,
        // so after as well.
        self.set_compatibility(subject).await;
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, own.json.to_owned());
        let registered = post_schema(&self.settings, subject.to_owned(), supplied).await;
        let registered = registered.map_err(|error| match answer(&error) {
            Answer::Unknown => refused("its URL is not that of a registry".to_owned()),
            Answer::Refused(reason) => refused(reason),
            Answer::Unavailable(reason) => CodecError::RegistryUnavailable { reason },
        })?;
        self.set_compatibility(subject).await;
        signed(registered.id).ok_or_else(|| refused("it gave an id beyond 31 bits".to_owned()))
    }

    async fn look_up(&self, own: &Own) -> Result<Option<i32>, CodecError> {
        let body = serde_json::json!({ "schema": own.json, "schemaType": "AVRO" }).to_string();
        let call = SrCall::PostForVersion(own.subject, &body);
        match perform_sr_call(&self.settings, call).await {
            Ok(found) => Ok(found.id.and_then(signed)),
            Err(error) => match answer(&error) {
                Answer::Unknown => Ok(None),
                Answer::Refused(reason) => Err(CodecError::Refused {
                    subject: own.subject,
                    reason,
                }),
                Answer::Unavailable(reason) => Err(CodecError::RegistryUnavailable { reason }),
            },
        }
    }

    /// The schema of an id as JSON; none when the registry says that there is none.
    pub(super) async fn schema(&self, id: i32) -> Result<Option<String>, CodecError> {
        let Ok(id) = u32::try_from(id) else {
            return Ok(None);
        };
        match perform_sr_call(&self.settings, SrCall::GetById(id)).await {
            Ok(found) => Ok(found.schema),
            Err(error) => match answer(&error) {
                Answer::Unknown => Ok(None),
                Answer::Refused(reason) | Answer::Unavailable(reason) => {
                    Err(CodecError::RegistryUnavailable { reason })
                }
            },
        }
    }

    /// A registry that does not let us set this is its keeper's to set up.
    async fn set_compatibility(&self, subject: &str) {
        let mut request = self
            .http
            .put(format!("{}/config/{subject}", self.base))
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(format!("{{\"compatibility\":\"{COMPATIBILITY}\"}}"));
        if let Some((name, password)) = &self.user {
            request = request.basic_auth(name, password.as_deref());
        }
        let problem = match request.send().await {
            Ok(response) if response.status().is_success() => return,
            Ok(response) => response.status().to_string(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(subject, problem, "compatibility of the subject was not set");
    }
}

fn signed(id: u32) -> Option<i32> {
    i32::try_from(id).ok()
}

/// By the registry's own code: the status alone could come from a proxy in front of it.
fn answer(error: &SRCError) -> Answer {
    let raw = error
        .source()
        .and_then(|cause| cause.downcast_ref::<RawError>());
    let reason = match raw {
        Some(raw) => format!("{} ({})", error.error, raw.message),
        None => match &error.cause {
            Some(cause) => format!("{}: {cause}", error.error),
            None => error.error.clone(),
        },
    };
    match raw.map_or(0, |raw| raw.error_code) {
        40_400..=40_499 => Answer::Unknown,
        409 | 422 | 40_900..=40_999 | 42_200..=42_299 => Answer::Refused(reason),
        _ => Answer::Unavailable(reason),
    }
}
