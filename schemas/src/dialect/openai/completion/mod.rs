//! Legacy completions (`POST /v1/completions`): a prompt is continued as text.

mod answer;
mod convert;
mod request;

pub use answer::{read_completion_chunk, render_completion, render_completion_chunk};
pub use convert::{CompletionWriter, read_completion, write_completion};
pub use request::{CompletionRequest, upstream_completion};
