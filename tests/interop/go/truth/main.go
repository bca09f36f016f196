// truth makes messages with the official Go types: of each type that is ordered, several, in which
// every field is set that the ordered descriptors have. They are printed in their encoding.
package main

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	_ "github.com/cncf/xds/go/udpa/type/v1"
	_ "github.com/cncf/xds/go/xds/type/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/pick_first/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// Messages within messages, at most.
	depth = 7
	// Messages of each type: every one takes other members of its oneofs.
	variants = 16
	// Fields of one message, at most, counting those within: some types hold themselves.
	size = 20000
)

type order struct {
	Types       []string `json:"types"`
	Descriptors []byte   `json:"descriptors"`
}

// known are the messages and enums of the descriptors that were ordered, by full name.
type known struct {
	messages map[string]*descriptorpb.DescriptorProto
	enums    map[string]*descriptorpb.EnumDescriptorProto
}

func main() {
	file := flag.String("order", "", "what to make")
	flag.Parse()
	if err := run(*file); err != nil {
		say(map[string]any{"event": "error", "message": err.Error()})
		os.Exit(2)
	}
}

func say(event map[string]any) {
	line, _ := json.Marshal(event)
	fmt.Println(string(line))
}

func run(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var order order
	if err := json.Unmarshal(text, &order); err != nil {
		return err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(order.Descriptors, set); err != nil {
		return err
	}
	known := known{map[string]*descriptorpb.DescriptorProto{}, map[string]*descriptorpb.EnumDescriptorProto{}}
	for _, file := range set.GetFile() {
		known.add(file.GetPackage(), file.GetMessageType(), file.GetEnumType())
	}
	for _, name := range order.Types {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for variant := range variants {
			message := kind.New()
			maker := maker{known: known, turn: variant}
			if err := maker.fill(message, depth); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message.Interface())
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			say(map[string]any{"event": "message", "type": name, "bytes": base64.StdEncoding.EncodeToString(bytes)})
		}
	}
	return nil
}

func (k known) add(scope string, messages []*descriptorpb.DescriptorProto, enums []*descriptorpb.EnumDescriptorProto) {
	for _, enum := range enums {
		k.enums[scope+"."+enum.GetName()] = enum
	}
	for _, message := range messages {
		name := scope + "." + message.GetName()
		k.messages[name] = message
		k.add(name, message.GetNestedType(), message.GetEnumType())
	}
}

// maker fills one message. Its turn chooses among the members of a oneof, and goes on with each.
type maker struct {
	known known
	turn  int
	made  int
}

func (m *maker) fill(message protoreflect.Message, left int) error {
	kind := message.Descriptor()
	if kind.FullName() == "google.protobuf.Any" {
		held, err := anypb.New(&routerpb.Router{StartChildSpan: true})
		if err != nil {
			return err
		}
		proto.Merge(message.Interface(), held)
		return nil
	}
	fields := kind.Fields()
	ours, modelled := m.known.messages[string(kind.FullName())]
	has := func(field protoreflect.FieldDescriptor) bool {
		// Of protobuf's own types we have all.
		if !modelled {
			return kind.ParentFile().Package() == "google.protobuf"
		}
		for _, each := range ours.GetField() {
			if each.GetNumber() == int32(field.Number()) {
				return true
			}
		}
		return false
	}
	chosen := map[protoreflect.FullName]protoreflect.FieldDescriptor{}
	for i := range kind.Oneofs().Len() {
		oneof := kind.Oneofs().Get(i)
		var members []protoreflect.FieldDescriptor
		for j := range oneof.Fields().Len() {
			if has(oneof.Fields().Get(j)) {
				members = append(members, oneof.Fields().Get(j))
			}
		}
		if len(members) > 0 {
			chosen[oneof.FullName()] = members[m.turn%len(members)]
			m.turn++
		}
	}
	for i := range fields.Len() {
		field := fields.Get(i)
		oneof := field.ContainingOneof()
		if !has(field) || (oneof != nil && chosen[oneof.FullName()] != field) {
			continue
		}
		if err := m.set(message, field, left); err != nil {
			return fmt.Errorf("%s: %w", field.FullName(), err)
		}
	}
	return nil
}

func (m *maker) set(message protoreflect.Message, field protoreflect.FieldDescriptor, left int) error {
	m.made++
	holds := field.Kind() == protoreflect.MessageKind
	if field.IsMap() {
		holds = field.MapValue().Kind() == protoreflect.MessageKind
	}
	if holds && (left == 0 || m.made > size) {
		return nil
	}
	switch {
	case field.IsMap():
		entries := message.Mutable(field).Map()
		value := entries.NewValue()
		if holds {
			if err := m.fill(value.Message(), left-1); err != nil {
				return err
			}
		} else {
			value = m.scalar(field.MapValue())
		}
		entries.Set(m.scalar(field.MapKey()).MapKey(), value)
	case field.IsList():
		list := message.Mutable(field).List()
		for range 2 {
			if !holds {
				list.Append(m.scalar(field))
				continue
			}
			if err := m.fill(list.AppendMutable().Message(), left-1); err != nil {
				return err
			}
		}
	case holds:
		return m.fill(message.Mutable(field).Message(), left-1)
	default:
		message.Set(field, m.scalar(field))
	}
	return nil
}

// scalar is a value other than the default.
func (m *maker) scalar(field protoreflect.FieldDescriptor) protoreflect.Value {
	n := m.made%100 + 1
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		number := protoreflect.EnumNumber(1)
		if ours, ok := m.known.enums[string(field.Enum().FullName())]; ok {
			values := ours.GetValue()
			number = protoreflect.EnumNumber(values[n%len(values)].GetNumber())
		} else {
			number = field.Enum().Values().Get(field.Enum().Values().Len() - 1).Number()
		}
		return protoreflect.ValueOfEnum(number)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) / 4)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) / 4)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(n), 0, 0xff})
	default:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d", field.Name(), n))
	}
}
