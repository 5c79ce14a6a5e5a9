package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-chat/parley/contracts"
)

type tokenCmd struct {
	User     string        `arg:"" help:"The user's id."`
	Name     string        `name:"name" help:"The user's display name. Defaults to the id."`
	For      time.Duration `name:"for" default:"24h" help:"How long the token lasts."`
	accounts `embed:""`
}

// Validate is called by the command line's parser.
func (c *tokenCmd) Validate() error { return c.accounts.Validate() }

// Run prints a token signed with the secret.
func (c *tokenCmd) Run(s streams) error {
	if c.Secret == "" {
		return errors.New("token needs PARLEY_SECRET: the workers' secret (parley dev keeps its own in .parley/secret, parley up in .local/secret)")
	}
	if !contracts.ValidID(c.User) {
		return fmt.Errorf("user %q: use 1 to 64 of A-Z a-z 0-9 _ -", c.User)
	}
	if c.Name == "" {
		c.Name = c.User
	}
	claims := jwt.MapClaims{"sub": c.User, "name": c.Name, "exp": time.Now().Add(c.For).Unix()}
	if c.Issuer != "" {
		claims["iss"] = c.Issuer
	}
	if c.Audience != "" {
		claims["aud"] = c.Audience
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(c.Secret))
	if err != nil {
		return fmt.Errorf("sign the token: %w", err)
	}
	_, err = fmt.Fprintln(s.out, signed)
	return err
}
