//! A client that sees what is on the wire.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};

/// A chat request of one user message.
#[must_use]
pub fn chat(model: &str, prompt: &str) -> Value {
    json!({ "model": model, "messages": [ { "role": "user", "content": prompt } ] })
}

/// An HTTP client with a key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    /// The key it sends.
    pub key: String,
}

/// An answer to a chat request.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: http::HeaderMap,
    /// The body as JSON.
    pub body: Value,
}

impl Answer {
    /// Value of the header `name` as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The text of the first choice.
    #[must_use]
    pub fn text(&self) -> &str {
        self.body["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default()
    }

    /// The request id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.header("x-request-id").unwrap_or_default()
    }

    /// `code` of the error.
    #[must_use]
    pub fn error_code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Client {
    /// A client of the API at `url`.
    #[must_use]
    pub fn new(url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(1_000)
            .timeout(Duration::from_secs(120))
            .build()
            .unwrap_or_default();
        Self {
            http,
            url: url.to_owned(),
            key: key.to_owned(),
        }
    }

    /// Status and JSON of a GET.
    ///
    /// # Errors
    /// When no answer comes, or it is not JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.key)
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// A request of any method with a JSON body.
    ///
    /// # Errors
    /// When no answer comes, or it is not JSON.
    pub async fn send(
        &self,
        method: http::Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Answer> {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let answer = request.bearer_auth(&self.key).json(body).send().await?;
        Ok(Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.json().await?,
        })
    }

    /// Sends a chat request and waits for the whole answer.
    ///
    /// # Errors
    /// When no answer comes, or it is not JSON.
    pub async fn chat(&self, body: &Value) -> anyhow::Result<Answer> {
        self.send(http::Method::POST, "/v1/chat/completions", body)
            .await
    }

    /// Sends a chat request with `"stream": true` and returns once the head is there.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn stream(&self, body: &Value) -> anyhow::Result<Stream> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let answer = self
            .http
            .post(format!("{}/v1/chat/completions", self.url))
            .bearer_auth(&self.key)
            .json(&body)
            .send()
            .await?;
        let request_id = answer
            .headers()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok());
        Ok(Stream {
            status: answer.status().as_u16(),
            request_id: request_id.unwrap_or_default().to_owned(),
            bytes: answer.bytes_stream().boxed(),
            buffer: Vec::new(),
            ended: false,
        })
    }
}

/// A streamed answer; dropping it closes the connection.
pub struct Stream {
    /// HTTP status.
    pub status: u16,
    /// The request id.
    pub request_id: String,
    bytes: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
    ended: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("status", &self.status)
            .field("id", &self.request_id)
            .finish()
    }
}

/// One frame of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum SseEvent {
    /// A chunk of the answer.
    Chunk(Value),
    /// `data: {"error": …}`.
    Error(Value),
    /// `[DONE]`.
    Done,
}

/// A stream read to its end.
#[derive(Debug, Default)]
pub struct Whole {
    /// Text of choice 0.
    pub text: String,
    /// `finish_reason` of choice 0.
    pub finish: Option<String>,
    /// The error event, when there was one.
    pub error: Option<Value>,
    /// Whether `[DONE]` came.
    pub done: bool,
}

impl Stream {
    /// The next event; none at the end of the body.
    ///
    /// # Errors
    /// When the connection breaks or a frame is not JSON.
    pub async fn next(&mut self) -> anyhow::Result<Option<SseEvent>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let frame = std::str::from_utf8(&frame)?;
                let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) else {
                    continue;
                };
                if data == "[DONE]" {
                    return Ok(Some(SseEvent::Done));
                }
                let value: Value = serde_json::from_str(data).context("data of a frame")?;
                if value.get("error").is_some() {
                    return Ok(Some(SseEvent::Error(value["error"].clone())));
                }
                return Ok(Some(SseEvent::Chunk(value)));
            }
            if self.ended {
                ensure!(self.buffer.is_empty(), "the body ends within a frame");
                return Ok(None);
            }
            match self.bytes.next().await {
                Some(bytes) => self.buffer.extend_from_slice(&bytes?),
                None => self.ended = true,
            }
        }
    }

    /// Reads until the first text of choice 0.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn first_token(&mut self) -> anyhow::Result<String> {
        while let Some(event) = self.next().await? {
            if let SseEvent::Chunk(chunk) = event {
                let text = chunk["choices"][0]["delta"]["content"]
                    .as_str()
                    .unwrap_or_default();
                if !text.is_empty() {
                    return Ok(text.to_owned());
                }
            }
        }
        anyhow::bail!("the stream ended before its first token")
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn whole(mut self) -> anyhow::Result<Whole> {
        let mut whole = Whole::default();
        while let Some(event) = self.next().await? {
            match event {
                SseEvent::Chunk(chunk) => {
                    let choice = &chunk["choices"][0];
                    whole
                        .text
                        .push_str(choice["delta"]["content"].as_str().unwrap_or_default());
                    if let Some(reason) = choice["finish_reason"].as_str() {
                        whole.finish = Some(reason.to_owned());
                    }
                }
                SseEvent::Error(error) => whole.error = Some(error),
                SseEvent::Done => whole.done = true,
            }
        }
        Ok(whole)
    }
}
