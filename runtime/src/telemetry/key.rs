//! Names of fields and attributes, the same in logs, traces and metrics.
//!
//! After the OpenTelemetry semantic conventions 1.37.0 (<https://opentelemetry.io/docs/specs/semconv/>) where they have
//! a name; the `messaging` and `gen_ai` ones are not stable there and will change with a version named here.
//! In `tracing` macros: `info!({ REQUEST_ID } = %id, "request completed")`, or the same text, `request.id = %id`.

/// Which product.
pub const SERVICE_NAME: &str = "service.name";
/// Its version.
pub const SERVICE_VERSION: &str = "service.version";
/// One process.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// Ours: `serve`, `ingress`, `processors` or `sinks`.
pub const ROLE: &str = "lockgate.role";

/// Ours: the request id. Never on a metric.
pub const REQUEST_ID: &str = "request.id";
/// Ours: the tenant. Never on a metric.
pub const TENANT: &str = "tenant";
/// Ours: the lane.
pub const LANE: &str = "lane";
/// Ours: number of the run.
pub const RUN: &str = "run";
/// Ours: number of the attempt within the run.
pub const ATTEMPT: &str = "attempt";
/// Ours: `provider/model`.
pub const DEPLOYMENT: &str = "deployment";
/// Ours: how something ended, from a closed set.
pub const OUTCOME: &str = "outcome";

/// Class of an error, from a closed set.
pub const ERROR_TYPE: &str = "error.type";

/// `GET`, `POST`, …
pub const HTTP_METHOD: &str = "http.request.method";
/// The matched route, not the path.
pub const HTTP_ROUTE: &str = "http.route";
/// Status of the answer.
pub const HTTP_STATUS: &str = "http.response.status_code";
/// Host that is called.
pub const SERVER_ADDRESS: &str = "server.address";

/// `kafka`, or `lockgate` for the embedded log.
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// Topic.
pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
/// Partition, as text.
pub const MESSAGING_PARTITION: &str = "messaging.destination.partition.id";
/// Offset.
pub const MESSAGING_OFFSET: &str = "messaging.kafka.offset";
/// Consumer group.
pub const MESSAGING_GROUP: &str = "messaging.consumer.group.name";

/// `chat`, `embeddings`, …
pub const GEN_AI_OPERATION: &str = "gen_ai.operation.name";
/// Name of the provider.
pub const GEN_AI_PROVIDER: &str = "gen_ai.provider.name";
/// Model that was asked for.
pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
/// Model that answered.
pub const GEN_AI_RESPONSE_MODEL: &str = "gen_ai.response.model";
/// Tokens of the prompt.
pub const GEN_AI_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Tokens of the answer.
pub const GEN_AI_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
