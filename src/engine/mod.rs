//! Many answers at a time from one model: requests that are decoded together, in one pass over the
//! weights, while prompts are read in between.

mod request;

pub use request::{
    Answer, Done, EngineError, Event, Finish, Request, SubmitError, Token, TokenLogprobs,
};
