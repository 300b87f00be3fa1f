//! Instances as they are: real agents, real children, and a real HTTP/2 client in the hub's place.

#[cfg(test)]
mod embed;
#[cfg(test)]
mod hello;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod keeper;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod process;
#[cfg(test)]
mod replaced;
#[cfg(test)]
mod stdio;
#[cfg(test)]
mod unread;
#[cfg(test)]
mod url;
