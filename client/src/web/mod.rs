//! What the local web page is made of, and the rules of who may use it. No socket and no clock: [`crate::io`] serves
//! it.

pub(crate) mod assets;
pub(crate) mod own;
pub(crate) mod pictures;
pub(crate) mod sessions;
