//! The table of routes: what is served, and the list of it.
//!
//! Owns both, so that a route that is served is in the list: the tests ask every route of it as a stranger would.
//! Invariant: a route is added here or not at all. Never: knows what a route does.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};

/// A route of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The methods that it takes.
    pub methods: Vec<Method>,
    /// Its path, with `{name}` for what varies.
    pub path: &'static str,
}

/// Routes whose handlers are given an `S`.
pub struct RouteTable<S> {
    router: Router<S>,
    list: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> RouteTable<S> {
    /// No routes.
    #[must_use]
    pub fn new() -> Self {
        Self { router: Router::new(), list: Vec::new() }
    }

    /// A route that only reads.
    #[must_use]
    pub fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(path, vec![Method::GET], routing::get(handler))
    }

    /// A route that changes something.
    #[must_use]
    pub fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(path, vec![Method::POST], routing::post(handler))
    }

    /// A route that looks at the method itself and takes these.
    #[must_use]
    pub fn any<T: 'static>(self, path: &'static str, methods: &[Method], handler: impl Handler<T, S>) -> Self {
        self.add(path, methods.to_vec(), routing::any(handler))
    }

    fn add(mut self, path: &'static str, methods: Vec<Method>, handler: MethodRouter<S>) -> Self {
        self.list.push(Route { methods, path });
        Self { router: self.router.route(path, handler), list: self.list }
    }

    /// What there is.
    #[must_use]
    pub fn list(self) -> Vec<Route> {
        self.list
    }

    /// What serves it.
    pub fn serve(self, state: S) -> Router {
        self.router.with_state(state)
    }
}

impl<S: Clone + Send + Sync + 'static> Default for RouteTable<S> {
    fn default() -> Self {
        Self::new()
    }
}
