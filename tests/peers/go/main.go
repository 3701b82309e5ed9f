// Peer serves or makes the calls of a plan over ttrpc, with containerd's own implementation of it.
//
//	peer serve|call [--nri-plugin|--nri-runtime] SOCKET PLAN
//
// A plan has a call a line: service, method, kind (unary, client, server, both), status code, requests, responses.
// Messages are in hex with commas between, "-" for an empty one, "." for none. Both sides check that they got what the
// plan says. With an --nri option the calls go over one connection inside NRI's multiplexer: either side of the socket
// may serve, so it is said which side of it this program is.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

const lanes = 4

type call struct {
	service, method, kind string
	code                  codes.Code
	requests, responses   [][]byte
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: peer serve|call [--nri-plugin|--nri-runtime] SOCKET PLAN")
	}
	role, rest := args[0], args[1:]
	side := ""
	if strings.HasPrefix(rest[0], "--nri-") {
		side, rest = strings.TrimPrefix(rest[0], "--nri-"), rest[1:]
	}
	path := rest[0]
	plan, err := readPlan(rest[1])
	if err != nil {
		return err
	}
	if side != "" {
		return nri(role, side, path, plan)
	}
	if role == "serve" {
		listener, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		return serve(listener, plan)
	}
	connection, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return makeCalls(connection, plan)
}

// nri does the same inside a connection in which the runtime's calls have channel 1 and the plugin's channel 2.
func nri(role, side, path string, plan []call) error {
	var trunk net.Conn
	var err error
	if side == "runtime" {
		listener, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		fmt.Println("ready")
		if trunk, err = listener.Accept(); err != nil {
			return err
		}
	} else if trunk, err = net.Dial("unix", path); err != nil {
		return err
	}
	mux := multiplex.Multiplex(trunk, multiplex.WithBlockedRead()) // what comes on a channel not yet open is dropped
	channel := multiplex.PluginServiceConn
	if (role == "call") == (side == "plugin") {
		channel = multiplex.RuntimeServiceConn
	}
	if role == "serve" {
		listener, err := mux.Listen(channel)
		if err != nil {
			return err
		}
		mux.Unblock()
		return serve(listener, plan)
	}
	connection, err := mux.Open(channel)
	if err != nil {
		return err
	}
	defer mux.Close()
	mux.Unblock()
	return makeCalls(connection, plan)
}

func serve(listener net.Listener, plan []call) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	services := map[string]*ttrpc.ServiceDesc{}
	waiting := map[string]chan call{}
	for _, each := range plan {
		name := each.service + "/" + each.method
		if waiting[name] == nil {
			waiting[name] = make(chan call, len(plan))
			register(services, each, waiting[name])
		}
		waiting[name] <- each
	}
	for name, service := range services {
		server.RegisterService(name, service)
	}
	fmt.Println("ready")
	if err := server.Serve(context.Background(), listener); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func register(services map[string]*ttrpc.ServiceDesc, first call, waiting chan call) {
	service := services[first.service]
	if service == nil {
		service = &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{}, Streams: map[string]ttrpc.Stream{}}
		services[first.service] = service
	}
	if first.kind == "unary" {
		service.Methods[first.method] = func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			planned := <-waiting
			if err := expect(unmarshal, planned.requests[0]); err != nil {
				return nil, err
			}
			if err := planned.err(); err != nil {
				return nil, err
			}
			return message(planned.responses[0]), nil
		}
		return
	}
	asks, answers := first.kind != "server", first.kind != "client"
	service.Streams[first.method] = ttrpc.Stream{
		Handler: func(_ context.Context, stream ttrpc.StreamServer) (interface{}, error) {
			return answerStream(stream, <-waiting, asks, answers)
		},
		StreamingClient: asks,
		StreamingServer: answers,
	}
}

// answerStream takes requests and sends responses in turns, then takes what is left and sends what is left.
func answerStream(stream ttrpc.StreamServer, planned call, asks, answers bool) (interface{}, error) {
	for i := 0; i < len(planned.requests) || (answers && i < len(planned.responses)); i++ {
		if i < len(planned.requests) {
			if err := expect(stream.RecvMsg, planned.requests[i]); err != nil {
				return nil, err
			}
		}
		if answers && i < len(planned.responses) {
			if err := stream.SendMsg(message(planned.responses[i])); err != nil {
				return nil, err
			}
		}
	}
	if asks {
		if err := stream.RecvMsg(&emptypb.Empty{}); err != io.EOF {
			return nil, fmt.Errorf("more requests than planned: %v", err)
		}
	}
	if err := planned.err(); err != nil || answers {
		return nil, err
	}
	return message(planned.responses[0]), nil
}

// makeCalls makes all calls of a method one after the other, and those of several methods at once.
func makeCalls(connection net.Conn, plan []call) error {
	client := ttrpc.NewClient(connection)
	defer client.Close()
	lane := map[string]int{}
	queues := make([][]call, lanes)
	for _, each := range plan {
		name := each.service + "/" + each.method
		if _, known := lane[name]; !known {
			lane[name] = len(lane) % lanes
		}
		queues[lane[name]] = append(queues[lane[name]], each)
	}
	failures := make(chan error, len(plan))
	var all sync.WaitGroup
	for _, queue := range queues {
		all.Add(1)
		go func(queue []call) {
			defer all.Done()
			for _, each := range queue {
				if err := makeCall(client, each); err != nil {
					failures <- fmt.Errorf("%s/%s: %w", each.service, each.method, err)
				}
			}
		}(queue)
	}
	all.Wait()
	close(failures)
	return <-failures
}

func makeCall(client *ttrpc.Client, planned call) error {
	ctx := context.Background()
	if planned.kind == "unary" {
		answer := &emptypb.Empty{}
		err := client.Call(ctx, planned.service, planned.method, message(planned.requests[0]), answer)
		if err == nil && planned.code == codes.OK {
			return same(answer, planned.responses[0])
		}
		return planned.ended(err)
	}
	desc := &ttrpc.StreamDesc{StreamingClient: planned.kind != "server", StreamingServer: planned.kind != "client"}
	var first interface{}
	if !desc.StreamingClient {
		first = message(planned.requests[0])
	}
	stream, err := client.NewStream(ctx, desc, planned.service, planned.method, first)
	if err != nil {
		return err
	}
	for i := 0; i < len(planned.requests) || i < len(planned.responses); i++ {
		if desc.StreamingClient && i < len(planned.requests) {
			if err := stream.SendMsg(message(planned.requests[i])); err != nil {
				return err
			}
		}
		if desc.StreamingServer && i < len(planned.responses) {
			if err := expect(stream.RecvMsg, planned.responses[i]); err != nil {
				return err
			}
		}
	}
	if desc.StreamingClient {
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	if !desc.StreamingServer && planned.code == codes.OK {
		return expect(stream.RecvMsg, planned.responses[0])
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err != io.EOF {
		return planned.ended(err)
	}
	return planned.ended(nil)
}

func (planned call) err() error {
	if planned.code == codes.OK {
		return nil
	}
	return status.Error(planned.code, "as planned")
}

func (planned call) ended(err error) error {
	if status.Code(err) != planned.code {
		return fmt.Errorf("ended with %v, not with %v", err, planned.code)
	}
	return nil
}

// message makes one whose bytes on the wire are these: a message without fields keeps all as unknown.
func message(data []byte) proto.Message {
	made := &emptypb.Empty{}
	if err := proto.Unmarshal(data, made); err != nil {
		panic(err)
	}
	return made
}

func expect(take func(interface{}) error, wanted []byte) error {
	got := &emptypb.Empty{}
	if err := take(got); err != nil {
		return err
	}
	return same(got, wanted)
}

func same(got proto.Message, wanted []byte) error {
	data, err := proto.Marshal(got)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, wanted) {
		return fmt.Errorf("got %x, not %x", data, wanted)
	}
	return nil
}

func readPlan(path string) ([]call, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var plan []call
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 6 {
			return nil, fmt.Errorf("not a call: %q", lines.Text())
		}
		code, err := strconv.ParseUint(words[3], 10, 32)
		if err != nil {
			return nil, err
		}
		requests, err := messages(words[4])
		if err != nil {
			return nil, err
		}
		responses, err := messages(words[5])
		if err != nil {
			return nil, err
		}
		plan = append(plan, call{words[0], words[1], words[2], codes.Code(code), requests, responses})
	}
	return plan, lines.Err()
}

func messages(word string) ([][]byte, error) {
	if word == "." {
		return nil, nil
	}
	var read [][]byte
	for _, text := range strings.Split(word, ",") {
		data, err := hex.DecodeString(strings.TrimPrefix(text, "-"))
		if err != nil {
			return nil, err
		}
		read = append(read, data)
	}
	return read, nil
}
