package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"trakr/internal/app"
	"trakr/internal/lifecycle"
)

const (
	overHTTP      = "audited read over HTTP"
	overHTTPPlain = "un-audited read over HTTP"
)

// http compares the API's audited read with its twin, over loopback, each client
// on one connection that stays open.
func (b *bench) http(ctx context.Context) error {
	b.say.begin("reads over HTTP")
	d, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	operator := lifecycle.Access{
		Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:0", Role: lifecycle.RoleOperator},
		Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation, Ref: "BENCH-1"},
	}
	token, _, err := d.app.Tokens.Create(ctx, operator, lifecycle.RoleService, "bench", 2*time.Hour)
	if err != nil {
		return err
	}
	audited, err := b.listen(d, b.telemetry.Observe)
	if err != nil {
		return err
	}
	defer audited.close()
	twin, err := b.listen(d, b.twinOf(d))
	if err != nil {
		return err
	}
	defer twin.close()
	if err := b.alike(ctx, audited, twin, token); err != nil {
		return err
	}
	r, err := b.alternate(ctx, side{"audited", b.asked(audited, token)}, side{"un-audited", b.asked(twin, token)})
	if err != nil {
		return err
	}
	b.report.compare(subject{"http", gateCallers, "requests"}, series{overHTTP, r[0]}, series{overHTTPPlain, r[1]})
	return nil
}

// listener is the private listener on a port of its own.
type listener struct {
	addr   string
	server *http.Server
}

// listen serves the product's private handler, observed by observe.
func (b *bench) listen(d *database, observe app.Observe) (*listener, error) {
	h, _, err := d.app.AdminHandler(b.telemetry, observe)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.Serve(l) }() // a failure shows at the clients
	return &listener{l.Addr().String(), s}, nil
}

func (l *listener) close() { _ = l.server.Close() }

// asked is a round of clients who ask one listener.
func (b *bench) asked(l *listener, token lifecycle.Secret) round {
	return func(ctx context.Context) (figure, error) {
		clients := make([]*client, gateCallers)
		for i := range clients {
			c, err := dial(ctx, l.addr, token)
			if err != nil {
				return figure{}, err
			}
			defer c.close()
			clients[i] = c
		}
		return load(ctx, len(clients), b.plan.Length, func(_ context.Context, caller int, r *rand.Rand) error {
			_, err := clients[caller].post(b.tenant(r))
			return err
		})
	}
}

// client speaks HTTP/1.1 on one connection. It shares the cores with the server,
// so it does no more than it must; what it takes makes both sides look alike.
type client struct {
	conn   net.Conn
	forget func() bool
	in     *bufio.Reader
	token  lifecycle.Secret
	out    []byte
}

func dial(ctx context.Context, addr string, token lifecycle.Secret) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	forget := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Ctrl-C ends a wait for an answer
	return &client{conn: conn, forget: forget, in: bufio.NewReader(conn), token: token}, nil
}

func (c *client) close() {
	c.forget()
	_ = c.conn.Close()
}

// body is what a read asks for.
var body = fmt.Sprintf(`{"fields":[%q,%q],"reason":{"code":%q}}`, read[0], read[1], lifecycle.ServiceOperation)

// reply is an answer.
type reply struct {
	header http.Header
	body   []byte
}

// post asks for the two fields of a tenant.
func (c *client) post(id lifecycle.TenantID) (reply, error) {
	c.out = fmt.Appendf(c.out[:0], "POST /v1/tenants/%s/reads HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer "+
		"%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		id, c.token.Reveal(), len(body), body)
	if _, err := c.conn.Write(c.out); err != nil {
		return reply{}, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return reply{}, err
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return reply{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return reply{}, fmt.Errorf("the API answered %s", resp.Status)
	}
	return reply{resp.Header, b}, nil
}

// alike refuses to compare a twin that no longer answers as the product does: with
// the same headers, members and values.
func (b *bench) alike(ctx context.Context, one, other *listener, token lifecycle.Secret) error {
	var headers [2][]string
	var fields [2]map[string]string
	for i, l := range []*listener{one, other} {
		c, err := dial(ctx, l.addr, token)
		if err != nil {
			return err
		}
		defer c.close()
		r, err := c.post(b.tenants[0])
		if err != nil {
			return err
		}
		var got struct {
			Fields  map[string]string `json:"fields"`
			EventID string            `json:"event_id"`
		}
		if err := json.Unmarshal(r.body, &got); err != nil || len(got.Fields) != len(read) || got.EventID == "" {
			return errors.New("a listener does not answer with the fields asked for")
		}
		for name := range r.header {
			headers[i] = append(headers[i], name)
		}
		slices.Sort(headers[i])
		fields[i] = got.Fields
	}
	for name, v := range fields[0] {
		if fields[1][name] != v {
			return errors.New("the un-audited twin answers with other values than the product")
		}
	}
	if !slices.Equal(headers[0], headers[1]) {
		return fmt.Errorf("the un-audited twin answers with other headers than the product: %v, %v", headers[0], headers[1])
	}
	return nil
}
