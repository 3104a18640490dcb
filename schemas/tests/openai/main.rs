//! OpenAI's dialects against recorded requests, answers and streams, and against the form that
//! stands between dialects.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod answers;
mod chats;
mod completions;
mod deepseek;
mod embeddings;
mod recorded;
mod requests;
