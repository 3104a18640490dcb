//! The door as its clients see it: in process, on a free port, with the embedded log behind it
//! and a test in the place of the processors.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod directives;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod hang_up;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod input;
#[cfg(test)]
mod load;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod streams;
