//! End-to-end tests: real processes, real broker, real database, real SDK. One file per behaviour.

#![expect(clippy::expect_used, reason = "a test may, and so may its helpers")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime"
)]

mod backpressure;
mod bad_input;
mod cancel;
mod chat;
mod disk_full;
mod drain;
mod faults;
mod frozen;
mod health;
mod http2;
mod kill;
mod limits;
mod outage;
mod rolling_restart;
mod sdk;
mod trace;
mod upstream;

use tests::harness::LogKind;

/// Runs the same story on both logs.
macro_rules! on_both_logs {
    ($($story:ident),+ $(,)?) => {
        $(
            mod $story {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_the_embedded_log() -> anyhow::Result<()> {
                    super::$story(crate::LogKind::Embedded).await
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_kafka() -> anyhow::Result<()> {
                    super::$story(crate::LogKind::Kafka).await
                }
            }
        )+
    };
}
pub(crate) use on_both_logs;
