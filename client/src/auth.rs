//! Users, roles and tokens.

use tally_proto::v1;

use crate::{
    call::{Read, Write, answers},
    client::Client,
};

impl Client {
    /// Changes users, roles or tokens; with a token that was made, this answer is the only one that ever shows
    /// it. It takes a role that is admin, while authentication is on. Request and answer are the messages of the
    /// API as they are ([`proto`](crate::proto)).
    ///
    /// Sent again after an answer was lost, a change that was made is made once more: that changes nothing, but
    /// for a token, of which there are two then, one that nobody was told of.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::proto::{AuthChangeRequest, AuthCreateToken, auth_change_request::Change};
    ///
    /// let create = AuthCreateToken { user: "shop".to_owned(), ..AuthCreateToken::default() };
    /// let change = Some(Change::CreateToken(create));
    /// let made = client.auth_change(AuthChangeRequest { change, dry_run: false }).await?;
    /// println!("{}", made.token);
    /// # Ok(()) }
    /// ```
    pub fn auth_change(&self, request: v1::AuthChangeRequest) -> Write<v1::AuthChangeRequest> {
        Write::new(self, request)
    }

    /// Lists users, roles and tokens, without anything secret. It takes a role that is admin.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// for user in client.auth_list().await?.users {
    ///     println!("{} {:?}", user.name, user.roles);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn auth_list(&self) -> Read<v1::AuthListRequest> {
        Read::new(self, v1::AuthListRequest::default())
    }

    /// Asks whether a user may do something, and which rules decide. Without a user it is about the caller.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::proto::AuthCanRequest;
    ///
    /// println!("I am {}", client.auth_can(AuthCanRequest::default()).await?.user);
    /// # Ok(()) }
    /// ```
    pub fn auth_can(&self, request: v1::AuthCanRequest) -> Read<v1::AuthCanRequest> {
        Read::new(self, request)
    }
}

answers! {
    Write<v1::AuthChangeRequest> -> v1::AuthChangeResponse: |answer| answer;
    Read<v1::AuthListRequest> -> v1::AuthListResponse: |answer| answer;
    Read<v1::AuthCanRequest> -> v1::AuthCanResponse: |answer| answer;
}
