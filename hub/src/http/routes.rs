//! The table of routes: it serves them and lists them.
//!
//! A route can only be added here, so every served route is in the list. The tests use the list to send every route a
//! request that must be refused.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{self, MethodRouter};

/// A route of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The methods that it accepts.
    pub methods: Vec<Method>,
    /// Its path, with `{name}` for the variable parts.
    pub path: &'static str,
}

/// Routes whose handlers get the state `S`.
pub struct RouteTable<S> {
    router: Router<S>,
    list: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> RouteTable<S> {
    /// Creates an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self { router: Router::new(), list: Vec::new() }
    }

    /// Adds a route that only reads.
    #[must_use]
    pub fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(path, vec![Method::GET], routing::get(handler))
    }

    /// Adds a route that changes something.
    #[must_use]
    pub fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(path, vec![Method::POST], routing::post(handler))
    }

    /// Adds a route whose handler examines the method itself.
    #[must_use]
    pub fn any<T: 'static>(self, path: &'static str, methods: &[Method], handler: impl Handler<T, S>) -> Self {
        self.add(path, methods.to_vec(), routing::any(handler))
    }

    fn add(mut self, path: &'static str, methods: Vec<Method>, handler: MethodRouter<S>) -> Self {
        self.list.push(Route { methods, path });
        Self { router: self.router.route(path, handler), list: self.list }
    }

    /// Returns the list of the routes.
    #[must_use]
    pub fn list(self) -> Vec<Route> {
        self.list
    }

    /// Returns a router that serves the routes.
    pub fn serve(self, state: S) -> Router {
        self.router.with_state(state)
    }
}

impl<S: Clone + Send + Sync + 'static> Default for RouteTable<S> {
    fn default() -> Self {
        Self::new()
    }
}
