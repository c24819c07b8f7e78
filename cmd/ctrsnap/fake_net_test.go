package main

import (
	"encoding/json"
	"net/http"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// netRoutes is the part of the fake that is about networks. The interface
// "taken0" refuses.
func (f *fakeDaemon) netRoutes(mux *http.ServeMux) {
	attached := []api.Interface{{Schema: 1, IfName: "eth0", MAC: "02:00:00:00:00:01", Addresses: []string{"10.213.0.2/22"}}}
	mux.HandleFunc("GET /v1/networks", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Networks{Schema: 1, Networks: []api.Network{
			{Schema: 1, Name: "default", Kind: "bridge", Default: true},
			{Schema: 1, Name: "flannel", Kind: "flannel", Plugins: []string{"flannel", "bridge"}, Problem: "flanneld does not run"},
		}, Problems: []string{"read CNI configuration /x.conflist: bad"}})
	})
	mux.HandleFunc("GET /v1/clones/{id}/interfaces", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(attached)
	})
	mux.HandleFunc("POST /v1/clones/{id}/interfaces", func(w http.ResponseWriter, r *http.Request) {
		var req api.AttachRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Master == "taken0" {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: &api.Error{Code: api.CodeConflict, Message: "address " + req.IP + " is taken"}})
			return
		}
		att := api.Attachment{Schema: 1, IfName: "eth1", Type: req.Type, Master: req.Master, IP: req.IP, Gateway: req.Gateway, VLAN: req.VLAN}
		attached = append(attached, api.Interface{Schema: 1, IfName: "eth1", Addresses: []string{req.IP}, Attached: &att})
		_ = json.NewEncoder(w).Encode(att)
	})
	mux.HandleFunc("DELETE /v1/clones/{id}/interfaces/{ifname}", func(w http.ResponseWriter, _ *http.Request) {
		attached = attached[:1]
		w.WriteHeader(http.StatusNoContent)
	})
}
