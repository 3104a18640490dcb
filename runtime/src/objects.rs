//! Object storage for large bodies (the claim check).
//!
//! Bodies over [`INLINE_BYTES_MAX`] go to object storage before the record is appended; when the storage is down
//! they stay inline up to [`INLINE_BYTES_MAX_FALLBACK`].

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use schemas::id::RequestId;
use schemas::request::{Body, Claim};
use schemas::time::Timestamp;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

/// Largest body that stays in the record: 256 KiB.
pub const INLINE_BYTES_MAX: usize = 256 * 1024;
/// Largest body that stays in the record when object storage is down: 3 MiB.
pub const INLINE_BYTES_MAX_FALLBACK: usize = 3 * 1024 * 1024;

/// Longest that keeping or fetching one body may take; then it counts as down.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection to S3.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Objects deleted at once by a sweep.
const DELETES_MAX: usize = 16;

/// Why a body could not be kept or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The storage does not answer; trying again may help.
    #[error("object storage does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The URL or its settings are refused; trying again will not help.
    #[error("objects.url cannot be used: {reason}")]
    Refused {
        /// In words, without secrets.
        reason: String,
    },
    /// No such object: deleted by age, or the roles do not share storage.
    #[error("object {name} is not there")]
    Missing {
        /// Object name.
        name: String,
    },
    /// The bytes do not have the recorded length or hash.
    #[error("object {name} is damaged")]
    Damaged {
        /// Object name.
        name: String,
    },
}

/// Which body of a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request body.
    Request,
    /// The answer of one run; its number keeps zombies apart.
    Answer(schemas::event::Run),
}

/// Handle on object storage; clones share it.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
}

impl Objects {
    /// Opens `url` (`s3://bucket/prefix`, `file:///folder`) or the folder `objects` under `data_dir` when there is none.
    /// Reaches no network.
    ///
    /// # Errors
    /// [`ObjectsError::Refused`] when the URL's scheme or settings are.
    pub fn open(
        settings: &crate::config::Objects,
        data_dir: &FilePath,
    ) -> Result<Self, ObjectsError> {
        let store = match &settings.url {
            None => folder(&data_dir.join("objects"))?,
            Some(url) => match url.scheme() {
                "file" => {
                    let path = url.to_file_path();
                    folder(&path.map_err(|()| refused("it names no folder of this machine"))?)?
                }
                "s3" => s3(url, settings)?,
                other => return Err(refused(format!("there is no storage for {other}://"))),
            },
        };
        Ok(Self { store })
    }

    /// The body as it goes into a record: inline when small, else kept (durable on return) and claimed. When the storage
    /// is down, a body up to [`INLINE_BYTES_MAX_FALLBACK`] stays inline.
    ///
    /// # Errors
    /// [`ObjectsError::Unavailable`] when it is too large to stay inline and the storage is down.
    ///
    /// # Cancel safety
    /// A dropped call may leave an object that nobody claims; the sweep takes it.
    pub async fn store(
        &self,
        tenant: &str,
        id: RequestId,
        at: Timestamp,
        kind: Kind,
        bytes: Bytes,
    ) -> Result<Body, ObjectsError> {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(Body::Inline(bytes));
        }
        match self.keep(tenant, id, at, kind, bytes.clone()).await {
            Ok(claim) => Ok(Body::Claim(claim)),
            Err(error) if bytes.len() <= INLINE_BYTES_MAX_FALLBACK => {
                tracing::warn!(
                    request.id = %id,
                    bytes = bytes.len(),
                    error = &error as &dyn std::error::Error,
                    "object storage is down, a large body stays in its record"
                );
                Ok(Body::Inline(bytes))
            }
            Err(error) => Err(error),
        }
    }

    async fn keep(
        &self,
        tenant: &str,
        id: RequestId,
        at: Timestamp,
        kind: Kind,
        bytes: Bytes,
    ) -> Result<Claim, ObjectsError> {
        let name = name(tenant, id, at, kind);
        let claim = Claim {
            name: name.to_string(),
            length: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            sha256: sha256(bytes.clone()).await?,
        };
        timely(&claim.name, self.store.put(&name, bytes.into())).await?;
        Ok(claim)
    }

    /// The bytes of a body, checked against length and hash.
    ///
    /// # Errors
    /// As in [`ObjectsError`].
    pub async fn load(&self, body: &Body) -> Result<Bytes, ObjectsError> {
        let claim = match body {
            Body::Inline(bytes) => return Ok(bytes.clone()),
            Body::Claim(claim) => claim,
        };
        let damaged = || ObjectsError::Damaged {
            name: claim.name.clone(),
        };
        let path = Path::parse(&claim.name).map_err(|_| damaged())?;
        let fetch = async {
            let found = self.store.get(&path).await?;
            // Before the bytes are fetched: what is larger than claimed may not fit into memory.
            if i64::try_from(found.meta.size).ok() != Some(claim.length) {
                return Ok(None);
            }
            found.bytes().await.map(Some)
        };
        let bytes = timely(&claim.name, fetch).await?.ok_or_else(damaged)?;
        if sha256(bytes.clone()).await? == claim.sha256 {
            Ok(bytes)
        } else {
            Err(damaged())
        }
    }

    /// Deletes objects older than `age`; returns how many.
    ///
    /// # Errors
    /// [`ObjectsError::Unavailable`].
    ///
    /// # Cancel safety
    /// What was deleted is; the rest is found again by the next sweep.
    pub async fn sweep(&self, age: Duration) -> Result<u64, ObjectsError> {
        let now = std::time::SystemTime::now();
        let is_old = |meta: &object_store::ObjectMeta| {
            let made: std::time::SystemTime = meta.last_modified.into();
            now.duration_since(made).is_ok_and(|old| old > age)
        };
        let listed = self.store.list(None);
        let deleted = listed
            .try_filter(|meta| std::future::ready(is_old(meta)))
            .map(|meta| async {
                let meta = meta?;
                match self.store.delete(&meta.location).await {
                    // Another process sweeps as well.
                    Err(object_store::Error::NotFound { .. }) => Ok(0),
                    other => other.map(|()| 1),
                }
            })
            .buffer_unordered(DELETES_MAX)
            .try_fold(0, |sum, one| std::future::ready(Ok(sum + one)));
        deleted.await.map_err(unavailable)
    }
}

fn refused(reason: impl Into<String>) -> ObjectsError {
    ObjectsError::Refused {
        reason: reason.into(),
    }
}

fn unavailable(error: object_store::Error) -> ObjectsError {
    ObjectsError::Unavailable(Box::new(error))
}

/// Files and the folders above them are synced before a write returns; a half-written file is never seen.
fn folder(path: &FilePath) -> Result<Arc<dyn ObjectStore>, ObjectsError> {
    std::fs::create_dir_all(path)
        .map_err(|error| refused(format!("{}: {error}", path.display())))?;
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|error| refused(error.to_string()))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(Arc::new(store))
}

fn s3(
    url: &url::Url,
    settings: &crate::config::Objects,
) -> Result<Arc<dyn ObjectStore>, ObjectsError> {
    let bucket = url
        .host_str()
        .ok_or_else(|| refused("it names no bucket"))?;
    let options = ClientOptions::new()
        .with_timeout(TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(true);
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 3,
        retry_timeout: TIMEOUT,
    };
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &settings.aws {
        // Of the `AWS_…` variables many are for other programs.
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value.expose_secret());
        }
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_client_options(options)
        .with_retry(retry)
        .build()
        .map_err(|error| refused(error.to_string()))?;
    let prefix = url.path().trim_matches('/');
    if prefix.is_empty() {
        return Ok(Arc::new(store));
    }
    let prefix = Path::parse(prefix).map_err(|error| refused(error.to_string()))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

/// `tenant/date/request id/kind`, each part without what would be special in a path.
fn name(tenant: &str, id: RequestId, at: Timestamp, kind: Kind) -> Path {
    let date = time::OffsetDateTime::from_unix_timestamp(at.seconds())
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
        .date();
    let kind = match kind {
        Kind::Request => "request".to_owned(),
        // The number alone would let two processes of one takeover write the same name.
        Kind::Answer(run) => format!("answer-{}-{:016x}", run.number, run.nonce),
    };
    Path::from_iter([tenant, &date.to_string(), &id.to_string(), &kind])
}

/// Lower-case hex. Off the runtime's threads: large bodies take milliseconds.
async fn sha256(bytes: Bytes) -> Result<String, ObjectsError> {
    let hash = move || data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
    tokio::task::spawn_blocking(hash)
        .await
        // Only a runtime that ends does that.
        .map_err(|error| ObjectsError::Unavailable(Box::new(error)))
}

/// `work` with its errors sorted, as long as it takes no longer than [`TIMEOUT`].
async fn timely<T>(
    name: &str,
    work: impl Future<Output = object_store::Result<T>>,
) -> Result<T, ObjectsError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(object_store::Error::NotFound { .. })) => Err(ObjectsError::Missing {
            name: name.to_owned(),
        }),
        Ok(Err(error)) => Err(unavailable(error)),
        Err(late) => Err(ObjectsError::Unavailable(Box::new(late))),
    }
}

#[cfg(test)]
mod tests {
    use schemas::event::Run;
    use schemas::topic::{ReplyPlace, ReplyTopic};

    use super::*;
    use crate::config;

    fn settings(url: Option<&str>) -> config::Objects {
        config::Objects {
            url: url.map(|url| url.parse().unwrap()),
            shared: false,
            aws: std::collections::BTreeMap::default(),
        }
    }

    fn id() -> RequestId {
        RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        })
    }

    fn large(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    const AT: Timestamp = Timestamp(1_700_000_000_000_000);
    const RUN: Run = Run {
        number: 2,
        nonce: -1,
    };

    #[tokio::test]
    async fn small_bodies_stay_inline() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::open(&settings(None), folder.path()).unwrap();
        let bytes = large(INLINE_BYTES_MAX);
        let body = objects
            .store("acme", id(), AT, Kind::Request, bytes.clone())
            .await
            .unwrap();
        assert_eq!(body, Body::Inline(bytes.clone()));
        assert_eq!(objects.load(&body).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn large_bodies_are_claimed_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("kept").display());
        let objects = Objects::open(&settings(Some(&url)), FilePath::new("/nowhere")).unwrap();
        let bytes = large(INLINE_BYTES_MAX + 1);
        let id = id();
        let body = objects
            .store("a/../c", id, AT, Kind::Answer(RUN), bytes.clone())
            .await
            .unwrap();
        let Body::Claim(claim) = &body else {
            panic!("inline");
        };
        assert_eq!(
            claim.name,
            format!("a%2F..%2Fc/2023-11-14/{id}/answer-2-ffffffffffffffff")
        );
        assert_eq!(claim.length, i64::try_from(bytes.len()).unwrap());
        assert_eq!(objects.load(&body).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn damage_and_absence_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::open(&settings(None), folder.path()).unwrap();
        let body = objects
            .store("acme", id(), AT, Kind::Request, large(300_000))
            .await
            .unwrap();
        let Body::Claim(claim) = &body else {
            panic!("inline");
        };
        let file = folder.path().join("objects").join(&claim.name);
        std::fs::write(&file, vec![b'y'; 300_000]).unwrap();
        assert!(matches!(
            objects.load(&body).await,
            Err(ObjectsError::Damaged { .. })
        ));
        std::fs::write(&file, b"short").unwrap();
        assert!(matches!(
            objects.load(&body).await,
            Err(ObjectsError::Damaged { .. })
        ));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(
            objects.load(&body).await,
            Err(ObjectsError::Missing { .. })
        ));
    }

    #[tokio::test]
    async fn storage_that_is_down_keeps_middling_bodies_inline() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::open(&settings(None), folder.path()).unwrap();
        // A file where the tenant's folder should be.
        std::fs::write(folder.path().join("objects/acme"), b"").unwrap();
        let bytes = large(INLINE_BYTES_MAX_FALLBACK);
        let body = objects
            .store("acme", id(), AT, Kind::Request, bytes)
            .await
            .unwrap();
        assert!(matches!(body, Body::Inline(_)));
        let bytes = large(INLINE_BYTES_MAX_FALLBACK + 1);
        let error = objects
            .store("acme", id(), AT, Kind::Request, bytes)
            .await
            .unwrap_err();
        assert!(matches!(error, ObjectsError::Unavailable(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_sweep_goes_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::open(&settings(None), folder.path()).unwrap();
        let mut bodies = Vec::new();
        for _ in 0..3 {
            bodies.push(
                objects
                    .store("acme", id(), AT, Kind::Request, large(300_000))
                    .await
                    .unwrap(),
            );
        }
        let Body::Claim(claim) = &bodies[0] else {
            panic!("inline");
        };
        let file = std::fs::File::open(folder.path().join("objects").join(&claim.name)).unwrap();
        let hour = Duration::from_secs(3_600);
        file.set_modified(std::time::SystemTime::now() - 2 * hour)
            .unwrap();
        assert_eq!(objects.sweep(hour).await.unwrap(), 1);
        assert_eq!(objects.sweep(hour).await.unwrap(), 0);
        assert!(matches!(
            objects.load(&bodies[0]).await,
            Err(ObjectsError::Missing { .. })
        ));
        assert!(objects.load(&bodies[1]).await.is_ok());
    }

    #[test]
    fn settings_that_cannot_be_used_are_refused() {
        let nowhere = FilePath::new("/proc/nowhere");
        for url in [None, Some("gs://bucket"), Some("file://other-machine/x")] {
            let error = Objects::open(&settings(url), nowhere).unwrap_err();
            assert!(matches!(error, ObjectsError::Refused { .. }), "{error:?}");
        }
        let mut s3 = settings(Some("s3://bucket/some/prefix"));
        s3.aws.insert("AWS_REGION".to_owned(), "eu-1".into());
        assert!(Objects::open(&s3, nowhere).is_ok());
    }
}
