//! Whether a request may come in: which token it carries, whose that is, and what the row of the router's table asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::caller::{Denied, Grant};
use super::router::{self, Found, Scope};
use super::tokens::Tokens;
use crate::model::sync::Published;
use crate::model::{DAPR_API_TOKEN, Secret};

/// The token file in force.
pub struct Access {
    /// Guarded: the callers that are known.
    tokens: Published<Arc<Tokens>>,
    /// Grows with every change of them.
    version: AtomicU64,
}

/// Who may come in.
#[derive(Clone, Default)]
pub struct Welcome {
    /// Who may do what; `None`: everybody everything.
    pub access: Option<Arc<Access>>,
    /// Origins whose pages may use the API.
    pub origins: Arc<[String]>,
}

impl Welcome {
    /// Whether pages of that origin may use the API.
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == origin)
    }
}

/// What the last request of a connection has proven, so that the same bytes need not be looked up again.
#[derive(Default)]
pub struct Remembered {
    token: Secret,
    version: u64,
    grant: Option<Arc<Grant>>,
    certified: Option<Arc<Grant>>,
}

impl Remembered {
    /// What whoever has shown a certificate with that name may do where there are no tokens: everything.
    pub fn certified(&mut self, name: &Arc<str>) -> Arc<Grant> {
        match &self.certified {
            Some(grant) if grant.identity.name == *name => Arc::clone(grant),
            _ => Arc::clone(self.certified.insert(Arc::new(Grant::of_certificate(name)))),
        }
    }
}

impl Access {
    /// These callers are known.
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens: Published::new(Arc::new(tokens)), version: AtomicU64::new(1) }
    }

    /// Others are, from now on.
    pub fn replace(&self, tokens: Tokens) {
        self.tokens.update(|current| *current = Arc::new(tokens));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Denied::BadToken`].
    pub fn of_token(&self, token: &[u8], remembered: &mut Remembered) -> Result<Arc<Grant>, Denied> {
        // Before the tokens, so that older ones are never taken for newer.
        let version = self.version.load(Ordering::SeqCst);
        if let Some(grant) = &remembered.grant
            && remembered.version == version
            && remembered.token.is(token)
        {
            return Ok(Arc::clone(grant));
        }
        let grant = self.tokens.read(Arc::clone).of_token(token).map(Arc::clone).ok_or(Denied::BadToken)?;
        remembered.token = Secret::new(token);
        remembered.version = version;
        remembered.grant = Some(Arc::clone(&grant));
        Ok(grant)
    }

    /// What the caller of that name may do.
    pub fn named(&self, name: &str) -> Option<Arc<Grant>> {
        self.tokens.read(Arc::clone).named(name).map(Arc::clone)
    }
}

/// What a request to the API needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need<'p> {
    /// The scope of its row; `None` where there is no row, so that only those who may come in at all learn that.
    scope: Option<Scope>,
    /// The service that its path names.
    service: Option<&'p str>,
    /// It concerns all services at once.
    whole: bool,
}

impl<'p> Need<'p> {
    /// Of a request by its method and path.
    pub fn of(method: &str, path: &'p str) -> Self {
        match router::find(method, path) {
            Found::Route(route, captured) => {
                let service = captured.first().copied();
                // Nothing else that takes a scope to change or see it is about more than one service.
                Self { scope: Some(route.scope), service, whole: route.scope == Scope::Admin && service.is_none() }
            }
            Found::WrongMethod(_) | Found::Nothing => Self { scope: None, service: None, whole: false },
        }
    }

    /// Whether nobody has to say who it is.
    pub fn is_open(&self) -> bool {
        self.scope == Some(Scope::Open)
    }

    /// Whether `grant` covers it.
    ///
    /// # Errors
    /// [`Denied`], saying what is missing.
    pub fn judge(&self, grant: &Grant) -> Result<(), Denied> {
        if self.whole && grant.service_prefix.is_some() {
            return Err(Denied::OnlySome);
        }
        grant.may(self.scope.unwrap_or(Scope::Open), self.service)
    }
}

/// The token of a request, and whether it was in `Authorization`: there it is the mesh's unless Dapr's field has one, so that a caller can
/// send the mesh its token and an instance another.
///
/// # Errors
/// [`Denied::NoToken`], [`Denied::SeveralTokens`].
pub fn token<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(&'a [u8], bool), Denied> {
    let (mut authorization, mut dapr) = (None, None);
    for (name, value) in fields {
        let known = if name.eq_ignore_ascii_case(b"authorization") {
            &mut authorization
        } else if name.eq_ignore_ascii_case(DAPR_API_TOKEN.as_bytes()) {
            &mut dapr
        } else {
            continue;
        };
        if known.replace(value).is_some() {
            return Err(Denied::SeveralTokens);
        }
    }
    match (dapr, authorization) {
        (Some(token), _) => Ok((token, false)),
        (None, Some(value)) => bearer(value).map(|token| (token, true)).ok_or(Denied::NoToken),
        (None, None) => Err(Denied::NoToken),
    }
}

/// The token in `Bearer TOKEN` (RFC 6750 §2.1); the scheme is read in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(6)?;
    let token = token.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &'static str)]) -> Result<(&'static [u8], bool), Denied> {
        token(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn a_token_is_found_where_it_may_be_and_only_one() {
        assert_eq!(read(&[("Authorization", "Bearer abc")]), Ok((&b"abc"[..], true)));
        assert_eq!(read(&[("AUTHORIZATION", "bearer  abc ")]), Ok((&b"abc"[..], true)));
        assert_eq!(read(&[("dapr-api-token", "abc")]), Ok((&b"abc"[..], false)));
        assert_eq!(read(&[("authorization", "Bearer of-the-user"), ("dapr-api-token", "abc")]), Ok((&b"abc"[..], false)));
        for fields in [&[][..], &[("cookie", "token=abc")], &[("authorization", "Basic abc")], &[("authorization", "Bearer")]] {
            assert_eq!(read(fields), Err(Denied::NoToken), "{fields:?}");
        }
        for value in ["Bearer ", "Bearerabc", "", "abc"] {
            assert_eq!(read(&[("authorization", value)]), Err(Denied::NoToken), "{value}");
        }
        assert_eq!(read(&[("authorization", "Bearer a"), ("Authorization", "Bearer a")]), Err(Denied::SeveralTokens));
        assert_eq!(read(&[("dapr-api-token", "a"), ("dapr-api-token", "b")]), Err(Denied::SeveralTokens));
    }

    #[test]
    fn what_a_connection_has_proven_is_remembered_until_the_tokens_change() {
        let line = |token: &str| {
            let digest = super::super::tokens::digest(token.as_bytes());
            let entry = super::super::tokens::Entry {
                name: "ci".to_owned(),
                scopes: vec![Scope::Read],
                service_prefix: None,
                max_instances: None,
                digests: vec![digest],
            };
            Tokens::parse(&entry.line()).expect("valid")
        };
        let (access, mut remembered) = (Access::new(line("old")), Remembered::default());
        let first = access.of_token(b"old", &mut remembered).expect("known");
        assert!(Arc::ptr_eq(&first, &access.of_token(b"old", &mut remembered).expect("remembered")));
        assert_eq!(access.of_token(b"odl", &mut remembered), Err(Denied::BadToken));
        assert!(access.of_token(b"old", &mut remembered).is_ok());
        access.replace(line("new"));
        assert_eq!(access.of_token(b"old", &mut remembered), Err(Denied::BadToken));
        assert!(access.of_token(b"new", &mut remembered).is_ok());
    }

    #[test]
    fn what_concerns_all_services_is_not_for_a_token_of_some() {
        assert!(Need::of("GET", "/health").is_open());
        assert!(Need::of("GET", "/config").whole);
        assert_eq!(Need::of("PUT", "/services/a/policy").service, Some("a"));
        assert!(!Need::of("GET", "/services").whole);
        assert_eq!(Need::of("GET", "/nowhere").scope, None);
    }
}
