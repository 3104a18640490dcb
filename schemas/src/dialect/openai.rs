//! OpenAI's chat dialect: validation of requests, errors, chunks and answers.
