//! Names of the attributes of a request record. Each has the name of the header that a client sent, whose value
//! `ingress` has checked.

/// Tags that a deployment must have to serve the request: one or more, each of visible ASCII without a comma, sorted
/// and distinct, with a comma between them.
pub const TAGS: &str = "lockgate-tags";
/// `true`: nothing of the answer is shown before it is whole, so that any failover stays invisible.
pub const GUARDED: &str = "lockgate-guarded";
/// The one deployment that may serve the request, `provider/model`; only of callers who may say so.
pub const DEPLOYMENT: &str = "lockgate-deployment";
/// The strategy that chooses the deployment, as the configuration names them; only of callers who may say so.
pub const STRATEGY: &str = "lockgate-strategy";
