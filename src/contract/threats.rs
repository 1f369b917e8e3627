//! The threat model: who is trusted with what, what each limit bounds, and what is out of scope.
//!
//! # Who is trusted with what
//!
//! | who | is trusted with | and not with |
//! |---|---|---|
//! | whoever starts the program | everything: its configuration, token file and state directory decide | |
//! | a caller with the scope `admin` | the behaviour of all services, or of those that its token is for; what checks and routes send, secrets included | tokens; the process; files |
//! | a caller with the scope `register` | saying where instances are: calls go there, with all that their callers send | addresses that are denied; services beyond its prefix; more instances than its quota |
//! | a caller with the scope `invoke` | sending requests to instances, whatever their rules let it send | naming itself: `x-mesh-caller` is the mesh's to say; taking more than the limits of a service |
//! | a caller with the scope `read` | names, addresses, numbers and events of the services that it may see | secrets in policies |
//! | a stranger at the port | `/health`, `/ready`, and being refused | anything else, where there are tokens; without them the port is loopback, and everybody on this machine is a caller who may do everything |
//! | an instance | answering what it is asked | anything about the mesh: its answer is data, its redirects are not followed, its fields `x-mesh-…` are dropped, its pages get no say over the API |
//! | a resolver of names | saying what a name means | leading calls to denied addresses: each answer is judged, and the connection goes to what was judged |
//! | a page in a browser | nothing, unless its origin is named in `cors.allowOrigins` | changing anything from another origin; reading anything under a name that was made to point at loopback |
//! | whoever reads logs, metrics, errors | who called what, and what came of it | tokens, bodies, header fields |
//! | other users of this machine | reaching loopback | the token file (its owner's alone or lent by root, or refused), the private socket between the doors (in a directory that only its owner may enter), what is kept of the registry (read through no link, and closed to everybody) |
//!
//! # What is decided where
//!
//! A request is framed ([`crate::edge::http1`]), judged as a page's ([`super::browser`]), its sender found ([`super::access`]) and measured by
//! the row of the router's table ([`super::router`], where a row without a scope cannot be written), before its body is read. The API server
//! judges it once more. What a call may do is decided by the call machine ([`crate::policy::allow`]), so that a call through the event loops,
//! on the workers, through `/proxy` or from within the process meets the same rules, on the path that is then sent; a path that two readers
//! might take for different ones is covered by no rule about paths. Addresses are judged by [`crate::policy::upstreams`].
//!
//! # What each limit bounds
//!
//! | limit | bounds |
//! |---|---|
//! | `maxConnections`, `maxConnectionsPerAddress` | descriptors and memory for connections |
//! | `maxHeadBytes`, `maxTargetBytes`, `maxBodyBytes`, `maxBufferedBytes` | memory for what comes in, by itself and together |
//! | all of these, and 64 KiB that are never refused | the process: 24 MiB + 2 × `maxBufferedBytes` + 272 KiB for each connection that makes the most of it: a head, and 64 KiB each of a body, of the answer to it, and of both on their way |
//! | `headTimeoutMs`, `bodyTimeoutMs`, `idleTimeoutMs`, `writeTimeoutMs`, `tunnelIdleTimeoutMs` | how long somebody slow holds a place |
//! | `queue`, `workers`, `reservedWorkers`, `maxWatchers` | threads and places of the API |
//! | `limits.maxInFlight`, `limits.maxQueue`, `limits.queueTimeoutMs` | what one service may take of the mesh |
//! | `limits.maxInFlightPerCaller`, `rateLimit`, `rateLimit.perCaller` | what one caller may take of a service |
//! | `maxInstances` of a token | what one caller may take of the registry |
//! | `maxServices`, `maxInstancesPerService`, 64 labels, names of 63 characters | the registry, and with it all numbers and series |
//! | 64 KiB that are put of a service's settings, as many such as `maxServices`, twice that where they are there; 100 routes of 20 sides | what operators of some services take of memory, of each change and of each call |
//! | 8 meshes (`x-mesh-hops`) | calls in a circle |
//! | 32 look-ups of names, 24 of names not known to resolve, 8 of those that were silent last time; one registration that waits for a name | threads that wait for resolvers |
//! | 32 addresses of a name | what one answer of a resolver takes of memory and of each call |
//! | 64 checks of health at once, 32 of instances that were slow last time | how long others wait to be asked |
//!
//! # What is out of scope
//!
//! - Who holds a token is who it names. Tokens are as safe as the way they travel: beyond loopback, put TLS in front or use it.
//! - What instances do with a request that they were allowed to get, and whether they are who they say: `register` is a matter of trust.
//! - Rules tell paths apart as they are written, encoded or not: `/Admin` is not `/admin`. An instance that takes both for the same needs a rule for both,
//!   or a list of what is allowed instead of one of what is not.
//! - A host suffix in `upstreams.deny` keeps out names, not what they mean: the same address may have another name, or be written out. Deny the
//!   block of addresses too.
//! - Somebody who can read the memory of the process, or its files as its user.
//! - Answers under way when a token is taken away, or the authority of clients changes: they are finished. Whatever else goes on
//!   does not: taps, long polls and WebSockets end, and the next request has to prove anew who sends it.
//! - Networks of IPv6 are counted by /64: who has many of them, or is in a local one, is held by `maxConnections` alone.
//! - Pages under a name that ends in `.mesh`: where a browser's machine takes such names for the mesh, their calls are what any page may send
//!   anywhere. The API and `/proxy` by path are judged by `Origin` and `Host`.
//! - Trailers of answers, which are passed on unread. Those of requests may not name what only a head may say, `x-mesh-caller` among it.
//! - Somebody who may register and does so with ever new names that nobody answers for, or at ever new places that answer late: new names of
//!   others then resolve later, and checks come later. What is in use stays in use.
//! - A caller who can make instances fail, by what they answer with 500 or with a head that is too long: for those, circuit breakers and
//!   outlier detection are there, and others are refused as well meanwhile. What is only too long a body to be collected blames nobody.
//! - Floods that fill the network before they reach the port.
