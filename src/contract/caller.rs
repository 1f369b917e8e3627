//! Who calls, once that is proven: one type, whatever has proven it, and what such a caller may do.

use std::fmt;
use std::sync::Arc;

use super::router::Scope;

/// A proven name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The name that rules, limits and instances go by.
    pub name: Arc<str>,
    /// What has proven it.
    pub source: Source,
}

/// What proves a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A token of the token file.
    Token,
    /// The subject alternative name of a client's certificate.
    Certificate,
}

/// What a caller may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Who it is.
    pub identity: Identity,
    /// For what.
    pub scopes: Scopes,
    /// With services whose names begin so; `None`: with all.
    pub service_prefix: Option<Box<str>>,
    /// How many instances it may have registered at once; `None`: as many as fit.
    pub max_instances: Option<usize>,
}

impl Grant {
    /// Of whoever has shown a certificate with that name where there are no tokens: everything.
    pub fn of_certificate(name: &str) -> Self {
        let identity = Identity { name: name.into(), source: Source::Certificate };
        let scopes = Scope::GRANTED.into_iter().fold(Scopes::default(), Scopes::with);
        Self { identity, scopes, service_prefix: None, max_instances: None }
    }

    /// Whether this caller may do what needs `scope` about `service`; without one, about the mesh as a whole.
    ///
    /// # Errors
    /// [`Denied`], saying what is missing.
    pub fn may(&self, scope: Scope, service: Option<&str>) -> Result<(), Denied> {
        if !self.scopes.contains(scope) {
            return Err(Denied::Scope(scope));
        }
        match service {
            Some(service) => self.may_touch(service),
            None => Ok(()),
        }
    }

    /// Whether this caller may have to do with `service`.
    ///
    /// # Errors
    /// [`Denied::Service`].
    pub fn may_touch(&self, service: &str) -> Result<(), Denied> {
        if self.sees(service) { Ok(()) } else { Err(Denied::Service) }
    }

    /// Whether `service` is one of those that it may have to do with.
    pub fn sees(&self, service: &str) -> bool {
        self.service_prefix.as_ref().is_none_or(|prefix| service.starts_with(&**prefix))
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// This set and `scope`.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | Self::bit(scope))
    }

    /// Whether it has `scope`. Every set has [`Scope::Open`].
    pub const fn contains(self, scope: Scope) -> bool {
        matches!(scope, Scope::Open) || self.0 & Self::bit(scope) != 0
    }

    const fn bit(scope: Scope) -> u8 {
        1 << scope as u8
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Scope::GRANTED.into_iter().filter(|scope| self.contains(*scope))).finish()
    }
}

/// Why a request was turned away (RFC 6750 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// It came without a token.
    NoToken,
    /// Its token is not a valid one.
    BadToken,
    /// It came with several tokens.
    SeveralTokens,
    /// Its token is for something else than this.
    Scope(Scope),
    /// Its token is for other services.
    Service,
    /// Its token is for some services, and this concerns all.
    OnlySome,
}

impl Denied {
    /// What the answer says in `WWW-Authenticate`.
    pub fn challenge(self) -> String {
        match self {
            Self::NoToken => "Bearer realm=\"weft\"".to_owned(),
            Self::BadToken => "Bearer realm=\"weft\", error=\"invalid_token\"".to_owned(),
            Self::SeveralTokens => "Bearer realm=\"weft\", error=\"invalid_request\"".to_owned(),
            Self::Scope(scope) => format!("Bearer realm=\"weft\", error=\"insufficient_scope\", scope=\"{}\"", scope.word()),
            Self::Service | Self::OnlySome => "Bearer realm=\"weft\", error=\"insufficient_scope\"".to_owned(),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken => f.write_str("a token is needed: send Authorization: Bearer TOKEN"),
            Self::BadToken => f.write_str("this token is not a valid one"),
            Self::SeveralTokens => f.write_str("more than one token was sent; send one"),
            Self::Scope(scope) => write!(f, "this token does not have the scope {}", scope.word()),
            Self::Service => f.write_str("this token is for other services"),
            Self::OnlySome => f.write_str("this token is for some services only, and this concerns all of them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_its_scopes_and_for_services_that_begin_as_it_says() {
        let identity = Identity { name: "ci".into(), source: Source::Token };
        let scopes = Scopes::default().with(Scope::Register);
        let grant = Grant { identity, scopes, service_prefix: Some("pay-".into()), max_instances: None };
        assert_eq!(grant.may(Scope::Register, Some("pay-cards")), Ok(()));
        assert_eq!(grant.may(Scope::Open, None), Ok(()));
        assert_eq!(grant.may(Scope::Register, Some("users")), Err(Denied::Service));
        assert_eq!(grant.may(Scope::Register, Some("PAY-cards")), Err(Denied::Service));
        assert_eq!(grant.may(Scope::Invoke, Some("pay-cards")), Err(Denied::Scope(Scope::Invoke)));
        assert_eq!(format!("{scopes:?}"), "{Register}");
    }
}
