//! Embeddings (`POST /v1/embeddings`): texts are turned into vectors.

mod answer;
mod request;
mod vector;

pub use answer::{read_embeddings, render_embeddings, write_embeddings};
pub use request::{EmbeddingsRequest, read_embeddings_request, upstream_embeddings};
