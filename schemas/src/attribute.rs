//! Names of the attributes of a request record. Each has the name of the header that a client sent, whose value
//! `ingress` has checked. Lists are of visible ASCII words without a comma, sorted and distinct, with a comma between
//! them; never empty.

/// Tags that a deployment must have to serve the request: a list.
pub const TAGS: &str = "lockgate-tags";
/// `true`: nothing of the answer is shown before it is whole, so that any failover stays invisible.
pub const GUARDED: &str = "lockgate-guarded";
/// The one deployment that may serve the request, `provider/model`; only of callers who may say so.
pub const DEPLOYMENT: &str = "lockgate-deployment";
/// The strategy that chooses the deployment, as the configuration names them; only of callers who may say so.
pub const STRATEGY: &str = "lockgate-strategy";
/// The version of Anthropic's API that the body is written for, `2023-06-01` when there is none: one word of visible
/// ASCII. A provider has to be told of it when it is sent the body as it is.
pub const ANTHROPIC_VERSION: &str = "anthropic-version";
/// Features of Anthropic's API that the body uses and that its providers have to be told of: a list.
pub const ANTHROPIC_BETA: &str = "anthropic-beta";
